// The thought family (Latent Thought Models; ltm.md, checkpoints.md "noema-thought"): models, the fit of a sequence's latents, bounds,
// decoding and training. A decoder of L layers reads N latents z [N,C], M = N / L in each layer; their prior is the standard normal, their
// posterior q = N(mean, exp(log_variance)) is fitted to one sequence by some steps of Adam, the fast loop.
#pragma once

#include "noema/model.h"

namespace noema {

struct ThoughtConfig {
    int64_t vocab_size = 0;         // V
    int64_t hidden_size = 0;        // C
    int64_t num_layers = 0;         // L
    int64_t num_heads = 0;          // H; D = C / H
    int64_t intermediate_size = 0;  // F
    int64_t max_positions = 0;
    int64_t attention_window = 0;  // w: keys that a position sees, itself included
    int64_t num_latents = 0;       // N, of all layers together
    double rope_theta = 10000.0;
    float rms_norm_eps = 1e-5f;
    bool tied_embeddings = false;

    int64_t head_width() const { return hidden_size / num_heads; }
    int64_t latents_per_layer() const { return num_latents / num_layers; }
    /// Scalars of a sequence's z.
    int64_t latent_size() const { return num_latents * hidden_size; }
    Status validate() const;
};
std::vector<TensorSpec> thought_tensors(const ThoughtConfig& config);

/// B sequences of T positions; position t of ids [B*T] predicts targets [B*T], which are not scored where negative (null: none is). Host
/// memory that outlives the call.
struct ThoughtBatch {
    const int32_t* ids = nullptr;
    int64_t B = 0;
    int64_t T = 0;
    const int32_t* targets = nullptr;
};

/// How the rate of the fast loop goes from `first` to `last` over steps s = 0 .. S-1.
enum class FitSchedule : uint8_t {
    linear,   // first + (last - first) s / (S - 1)
    cosine,   // last (0.1 + 0.45 (1 + cos(pi s / S)))
    constant  // first
};
struct FitRate {
    double first = 0.30, last = 0.34;
    FitSchedule schedule = FitSchedule::linear;
    double at(int64_t step, int64_t steps) const;
};

/// resample: a draw for each step and one for the z handed on. shared: one for all.
enum class FitNoise : uint8_t { resample, shared };

/// Steps over which an objective is averaged to see whether it still moves.
constexpr int64_t kFitWindow = 4;

struct FitOptions {
    int64_t steps = 16;
    FitRate rate;
    FitNoise noise = FitNoise::resample;
    double log_variance_init = -5.0;
    bool constant_log_variance = false;
    /// Of the divergence in what the loop goes down by; the history tells it whole. Below 1 a thought may say more than it is worth.
    double kl_weight = 1;
    /// Above 0: a sequence is at rest, and its posterior stays as it is, once the mean objective of its last kFitWindow steps differs from
    /// that of the kFitWindow steps before by at most `tolerance` nats per scored target. It is looked at after every step.
    double tolerance = 0;
    /// Whether the z handed on is scored, which takes one more forward pass.
    bool score = false;
    /// Calls of the same sizes and options follow (training): a device may record the loop, which then says nothing before its end.
    bool repeated = false;
};

/// Where a fit starts. What is null is drawn from the seeds: mean 0.01 n, log_variance log_variance_init + 0.1 n'. Host memory.
struct FitStart {
    const uint64_t* seeds = nullptr;      // [B]
    const float* mean = nullptr;          // [B,N,C]
    const float* log_variance = nullptr;  // [B,N,C]
    const float* draws = nullptr;         // [steps + 1,B,N,C] of resample, [1,B,N,C] of shared
};

/// What a fit went through, for verification.
struct FitTrace {
    std::vector<double> rates;                                // [S]
    std::vector<std::vector<float>> mean, log_variance;       // S + 1 times [B,N,C]: before each step, and the result
    std::vector<float> mean_gradient, log_variance_gradient;  // [B,N,C] of step 0
};

struct FitTask {
    ThoughtBatch batch;
    FitStart start;
    FitOptions options;
    /// Every `progress_every` steps: how many there were, and the objective [B] of the last.
    int64_t progress_every = 1;
    std::function<void(int64_t steps, const std::vector<float>& objective)> progress = {};
    FitTrace* trace = nullptr;
};

/// A fitted posterior, [B,N,C] each, and the z drawn from it with the fit's last draw. Of a sequence without a scored target it is the prior.
struct Posterior {
    std::vector<float> mean, log_variance, z;
    std::vector<int32_t> steps;  // [B] taken
    /// Nats over scored targets, [B] each: of every step taken (0 where a sequence was at rest), then of z (cross-entropy: where that was
    /// scored). A fit that was cancelled has no z.
    std::vector<std::vector<float>> cross_entropy, kl;
};

/// K fresh draws from a posterior after its fit: valid bounds, unlike the objective of the fit, whose draws the posterior has seen.
struct BoundTask {
    ThoughtBatch batch;
    const float* mean = nullptr;          // [B,N,C]
    const float* log_variance = nullptr;  // [B,N,C]
    int64_t K = 8;
    const uint64_t* seeds = nullptr;  // [B], or
    const float* draws = nullptr;     // [K,B,N,C]
};
struct Bound {
    std::vector<float> cross_entropy, log_weight;    // [K,B] nats: summed over scored targets; log p(x,z) - log q(z)
    std::vector<float> kl;                           // [B]
    std::vector<double> nelbo, nelbo_sampled, iwae;  // [B] mean cross-entropy + kl; -mean log_weight; -log mean weight
};

/// Tokens after a prompt, with z [B,N,C] held fixed. Prompts [B*T] may end before T. Host memory.
struct ContinuationTask {
    const int32_t* ids = nullptr;
    const int32_t* lengths = nullptr;  // [B] tokens of each prompt; null: T
    int64_t B = 0;
    int64_t T = 0;
    const float* z = nullptr;
    int64_t tokens = 0;               // most new ones
    const uint64_t* seeds = nullptr;  // [B]
    float temperature = 1.0f;         // these three as of ops/sample.h
    int64_t top_k = 0;
    float top_p = 1.0f;
    int64_t end_id = -1;  // a sequence ends after this token; -1: never
    bool logits = false;
    /// After every step: the tokens [B] it gave, -1 of sequences that had ended.
    std::function<void(const std::vector<int32_t>& tokens)> progress = {};
};
struct Continuation {
    std::vector<std::vector<int32_t>> tokens;    // per sequence
    std::vector<std::vector<float>> confidence;  // the token's untempered probability
    std::vector<std::vector<float>> logits;      // [tokens, V], when asked for
};

class WeightStore;
struct ThoughtWeights;

class ThoughtModel {
 public:
    static Status load(Engine& engine, const ThoughtConfig& config, const std::vector<TensorSource>& tensors,
                       Precision precision, std::unique_ptr<ThoughtModel>& out,
                       const std::atomic<bool>* cancelled = nullptr);
    ~ThoughtModel();

    const ThoughtConfig& config() const { return config_; }
    /// Of the products, but for those of tokens with latents, which are f32 always.
    Precision precision() const { return precision_; }
    size_t weight_bytes() const { return weight_bytes_; }
    int64_t parameters() const;

    /// Each may be null. `trace` receives the embedding and every block's output, `attention` what every layer's tokens weigh its latents by.
    struct Outputs {
        float* hidden = nullptr;                               // [B*T,C] the final norm's output
        float* logits = nullptr;                               // [B*T,V]
        int32_t* likeliest = nullptr;                          // [B*T] the token of the largest logit
        std::vector<std::vector<float>>* trace = nullptr;      // L + 1 times [B*T,C]
        std::vector<std::vector<float>>* attention = nullptr;  // L times [B,T,H,M]
    };
    Status forward(Engine& engine, const ThoughtBatch& batch, const float* z, const Outputs& out,
                   const std::atomic<bool>* cancelled) const;
    /// losses [B*T]: -log p of the targets at z [B,N,C], 0 where not scored.
    Status losses(Engine& engine, const ThoughtBatch& batch, const float* z, float* losses,
                  const std::atomic<bool>* cancelled) const;
    /// The fast loop. Each sequence's result is the same bits in any batch. non_finite names the step; the posterior is then the last whose
    /// objective was finite (the start, if none was). aborted leaves the posterior as it stood.
    Status fit(Engine& engine, const FitTask& task, Posterior& out, const std::atomic<bool>* cancelled) const;
    Status bound(Engine& engine, const BoundTask& task, Bound& out, const std::atomic<bool>* cancelled) const;
    /// aborted leaves what there is in `out`.
    Status continue_text(Engine& engine, const ContinuationTask& task, Continuation& out,
                         const std::atomic<bool>* cancelled) const;

    Status replace(Engine& engine, const float* flat);
    Status copy_to(Engine& engine, float* flat) const;

 private:
    ThoughtModel() = default;
    Status adopt(Engine& engine, const std::vector<TensorSource>& tensors,
                 const std::atomic<bool>* cancelled = nullptr);
    Status read_head(const View& hidden, const Outputs& out, Context& context) const;

    ThoughtConfig config_;
    Precision precision_ = Precision::f32;
    std::unique_ptr<WeightStore> store_;
    std::atomic<size_t> weight_bytes_{0};
    uint64_t identity_ = 0;
    std::unique_ptr<ThoughtWeights> weights_;
};

/// One training call: gradients of sum weights * cross-entropy at z, which is given or fitted first.
struct ThoughtLesson {
    ThoughtBatch batch;
    const float* weights = nullptr;  // [B*T]
    const float* z = nullptr;        // [B,N,C]; null: fitted as follows
    FitStart start;
    FitOptions fit;
    /// Gradients of every step of the fit are added too, of the summed cross-entropy: what the released code trains on (ltm.md 2.6).
    bool trajectory = false;
};

class ThoughtTrainer : public TrainingState {
 public:
    static Status create(Engine& engine, std::shared_ptr<ThoughtModel> model, bool keep_average,
                         std::unique_ptr<ThoughtTrainer>& out);

    const ThoughtConfig& config() const { return model_->config(); }
    /// Adds gradients; losses [B*T] are those at z, `posterior` what was fitted.
    Status accumulate(Engine& engine, const ThoughtLesson& lesson, float* losses, Posterior& posterior,
                      const std::atomic<bool>* cancelled);
    /// With the current parameters, or with their average.
    Status losses(Engine& engine, const ThoughtBatch& batch, const float* z, bool average, float* losses,
                  const std::atomic<bool>* cancelled);
    Status fit(Engine& engine, const FitTask& task, bool average, Posterior& out, const std::atomic<bool>* cancelled);
    Status bound(Engine& engine, const BoundTask& task, bool average, Bound& out, const std::atomic<bool>* cancelled);
    Status publish(Engine& engine, bool average);

 private:
    Status source(bool average, ThoughtWeights& out) const;

    std::shared_ptr<ThoughtModel> model_;
};

}  // namespace noema
