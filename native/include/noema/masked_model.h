// The masked family: models, decoding sessions and trainers. With a causal mask the same network is the autoregressive family, which is
// trained and scored, not decoded.
#pragma once

#include <mutex>

#include "noema/model.h"

namespace noema {

/// A masked diffusion network: LLaDA's, or with the switches below Dream's or MDLM's (masked-diffusion.md section 2).
struct MaskedConfig {
    int64_t vocab_size = 0;   // V, rows of the embedding
    int64_t hidden_size = 0;  // C
    int64_t num_layers = 0;
    int64_t num_heads = 0;          // H; D = C / H
    int64_t num_kv_heads = 0;       // Hkv, divides H
    int64_t intermediate_size = 0;  // F
    int64_t max_positions = 0;
    double rope_theta = 10000.0;
    float rms_norm_eps = 1e-5f;  // of layer norms where the network has those
    int64_t mask_token_id = 0;   // of no meaning when causal
    bool tied_embeddings = false;
    bool causal = false;         // a position sees itself and what precedes it
    bool qkv_bias = false;       // queries, keys and values have biases
    bool shifted = false;        // a position's output predicts the token of the next one
    int64_t condition_size = 0;  // K of a DiT, whose blocks are modulated by a vector; 0: a Llama

    int64_t head_width() const { return hidden_size / num_heads; }
    bool is_dit() const { return condition_size > 0; }
    Status validate() const;
};

std::vector<TensorSpec> masked_tensors(const MaskedConfig& config);

/// B sequences of T positions. ids [B*T] and the key ranges [B] (optional) are host memory that outlives the call.
struct MaskedBatch {
    const int32_t* ids = nullptr;
    int64_t B = 0;
    int64_t T = 0;
    const int32_t* key_start = nullptr;
    const int32_t* key_end = nullptr;
};

class WeightStore;
struct MaskedWeights;

class MaskedModel {
 public:
    /// Checks every tensor against the configuration, converts and packs. `precision` is that of the products.
    static Status load(Engine& engine, const MaskedConfig& config, const std::vector<TensorSource>& tensors,
                       Precision precision, std::unique_ptr<MaskedModel>& out,
                       const std::atomic<bool>* cancelled = nullptr);
    ~MaskedModel();

    const MaskedConfig& config() const { return config_; }
    Precision precision() const { return precision_; }
    /// May be asked from any thread, also while replace() runs.
    size_t weight_bytes() const { return weight_bytes_; }
    int64_t parameters() const;

    /// hidden [B*T, C]: the final norm's output. `trace`, when given, receives num_layers + 2 arrays of B*T*C values:
    /// embedding, each block's residual stream, final norm; and of a DiT its condition.
    Status forward(Engine& engine, const MaskedBatch& batch, float* hidden, std::vector<std::vector<float>>* trace,
                   const std::atomic<bool>* cancelled) const;
    /// logits [B*T, V], of the outputs as they are: of a shifted network row i predicts position i + 1.
    Status logits(Engine& engine, const MaskedBatch& batch, float* logits, const std::atomic<bool>* cancelled) const;
    /// losses [B*T]: -log p of each position's target, 0 where the target is negative.
    Status losses(Engine& engine, const MaskedBatch& batch, const int32_t* targets, int64_t excluded_id, float* losses,
                  const std::atomic<bool>* cancelled) const;

    /// Takes new values for all tensors (f32, in the order of masked_tensors).
    Status replace(Engine& engine, const float* flat);

    /// Copies all tensors, f32, in the order of masked_tensors.
    Status copy_to(Engine& engine, float* flat) const;
    const MaskedWeights& weights() const { return *weights_; }
    /// Changes when the weights do: part of a recorded step's recipe.
    uint64_t identity() const { return identity_; }

 private:
    MaskedModel() = default;
    Status adopt(Engine& engine, const std::vector<TensorSource>& tensors,
                 const std::atomic<bool>* cancelled = nullptr);

    MaskedConfig config_;
    Precision precision_ = Precision::f32;
    std::unique_ptr<WeightStore> store_;
    std::atomic<size_t> weight_bytes_{0};
    uint64_t identity_ = 0;
    std::unique_ptr<MaskedWeights> weights_;
};

/// How a decoding step draws tokens.
enum class DrawKind : uint8_t { argmax, gumbel, categorical };
struct TokenDraw {
    DrawKind kind = DrawKind::argmax;
    float temperature = 1.0f;
    int64_t top_k = 0;
    float top_p = 1.0f;
    int64_t excluded_id = -1;
};

struct Neighbourhood {
    int64_t kernel = 0;  // 0: not asked for
    float multiplier = 1.0f;
    ConvShape shape = ConvShape::tanh;
};

/// The ancestral convolutional draw (masked-diffusion.md section 3).
struct ConvolutionalDraw {
    Neighbourhood neighbourhood;
    int64_t candidates = 1;
    float move = 0.0f;
    float stay = 0.0f;
    float temperature = 1.0f;
    const float* uniforms = nullptr;  // [R, candidates + 1], optional
};

struct DecodeStep {
    int64_t step = 0;
    std::vector<int32_t> rows;  // flat b * T + t
    TokenDraw draw;
    bool entropy = false;
    bool margin = false;
    int64_t top = 0;
    Neighbourhood neighbourhood;
    ConvolutionalDraw convolution;
};

struct DecodeResult {
    std::vector<int32_t> tokens;                        // [R]
    std::vector<float> confidence;                      // [R]
    std::vector<float> entropy, margin, neighbourhood;  // [R] when asked for
    std::vector<int32_t> top_ids;                       // [R, K]
    std::vector<float> top_probabilities;
};

/// A canvas of ids that a policy fills step by step. Not thread-safe but for canvas() and steps_done().
class DecodeSession {
 public:
    struct Options {
        int64_t B = 0, T = 0;
        std::vector<int32_t> ids;                 // [B*T]
        std::vector<int32_t> key_start, key_end;  // [B] or empty
        std::vector<uint64_t> seeds;              // [B]
        float guidance = 0.0f;                    // w of logits = u + (w + 1)(c - u)
        std::vector<uint8_t> prompt;              // [B*T], needed with guidance
    };

    static Status create(std::shared_ptr<const MaskedModel> model, Options options,
                         std::shared_ptr<DecodeSession>& out);

    Status set(const std::vector<int32_t>& rows, const std::vector<int32_t>& ids);
    Status step(Engine& engine, const DecodeStep& request, DecodeResult& result, const std::atomic<bool>* cancelled);
    /// Runs a whole plan: at step i the rows are drawn and committed. `finished` is raised after each step.
    Status run(Engine& engine, const std::vector<DecodeStep>& plan, DecodeResult& result,
               const std::atomic<bool>* cancelled, const std::function<void(int64_t)>& finished);
    std::vector<int32_t> canvas() const;
    int64_t B() const { return options_.B; }
    int64_t T() const { return options_.T; }

 private:
    DecodeSession(std::shared_ptr<const MaskedModel> model, Options options);
    struct Rows;
    struct RowViews;
    static int64_t top_of(const DecodeStep& request);
    MaskedBatch batch() const;
    Status check(const DecodeStep& request) const;
    void mask_prompt();
    Rows rows_of(const DecodeStep& request, bool recorded) const;
    Recipe recipe_of(const DecodeStep& request, const Rows& rows) const;
    RowViews upload_rows(const DecodeStep& request, const Rows& rows, Context& context) const;
    void fetch_rows(const RowViews& views, Rows& rows, Context& context) const;
    Status hidden(const Rows& rows, Context& context, const View& out) const;
    Status draw_tokens(const DecodeStep& request, const View& hidden, const RowViews& views, Context& context) const;
    Status draw_convolutional(const DecodeStep& request, const RowViews& views, Rows& rows, Context& context) const;
    void choose_candidates(const DecodeStep& request, Rows& rows) const;
    void collect(const DecodeStep& request, Rows& rows, DecodeResult& result) const;

    std::shared_ptr<const MaskedModel> model_;
    Options options_;
    std::vector<int32_t> unconditional_;  // the canvas with the prompt masked, when guided
    mutable std::mutex canvas_lock_;
};

/// What a training batch is judged by: targets [B*T] (negative: not scored), row_weights [B*T], losses [B*T] out.
struct MaskedObjective {
    const int32_t* targets = nullptr;
    const float* row_weights = nullptr;
    int64_t excluded_id = -1;
    float* losses = nullptr;
};

/// Rejective fine-tuning (R2FT, masked-diffusion.md section 4): of each sequence the text that was hidden, and one that a rule wrote in its
/// place. W = sum of log p over the winners' tokens / their denominator, L likewise of the losers':
///   loss = scale * sum_b [ -log sigmoid(beta_w W_b - beta_l L_b - gamma) - beta_a W_b ]
struct MaskedPairs {
    const int32_t* winners = nullptr;            // [B*T], negative: not scored
    const int32_t* losers = nullptr;             // [B*T]
    const float* winner_denominators = nullptr;  // [B], positive
    const float* loser_denominators = nullptr;   // [B]
    float beta_w = 1.0f, beta_l = 1.0f, beta_a = 0.1f, gamma = 0.0f;
    float scale = 1.0f;
    int64_t excluded_id = -1;
};
struct PairResult {
    double loss = 0;
    std::vector<double> winners, losers;  // [B] W, L
};

/// A masked model in training: gradients of the weighted cross-entropy.
class MaskedTrainer : public TrainingState {
 public:
    static Status create(Engine& engine, std::shared_ptr<MaskedModel> model, bool keep_average,
                         std::unique_ptr<MaskedTrainer>& out);

    /// Adds gradients of sum(row_weight * loss); the objective's losses and the sum are of this call.
    Status accumulate(Engine& engine, const MaskedBatch& batch, const MaskedObjective& objective, double& loss_sum,
                      const std::atomic<bool>* cancelled);
    /// Adds gradients of the pairs' loss.
    Status accumulate_pairs(Engine& engine, const MaskedBatch& batch, const MaskedPairs& pairs, PairResult& result,
                            const std::atomic<bool>* cancelled);
    Status losses(Engine& engine, const MaskedBatch& batch, const int32_t* targets, int64_t excluded_id, bool average,
                  float* losses, const std::atomic<bool>* cancelled);
    Status publish(Engine& engine, bool average);

 private:
    MaskedWeights weights(TrainerBuffer buffer) const;

    std::shared_ptr<MaskedModel> model_;
};

}  // namespace noema
