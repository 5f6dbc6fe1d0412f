// The flow family (TarFlowLM; tarflowlm.md, checkpoints.md "noema-flow"): models, inversion and training. L flows, `flows[0]` nearest the
// data; d latent channels per token, P tokens per position, c = P d, S = T / P positions of which the first m are prefix
// and N = S - m are modelled.
#pragma once

#include <optional>

#include "noema/model.h"

namespace noema {

enum class FlowKind : uint8_t { affine, mixture_cdf, mixture_rosenblatt };

/// One flow of the stack.
struct FlowStage {
    FlowKind kind = FlowKind::affine;
    bool reverse = false;        // takes the positions from the last to the first
    int64_t num_layers = 0;      // of its own body
    int64_t num_components = 0;  // K; 0 (mixture_rosenblatt only): the codebook
    int64_t maf_hidden = 0;      // M, mixture_cdf only
    int64_t maf_features = 0;    // E, mixture_cdf only
    int64_t readout_hidden = 0;  // width of the readout of its output, h^(l+1); 0: none
};

struct FlowConfig {
    int64_t vocab_size = 0;         // V
    int64_t latent_size = 0;        // d
    int64_t patch_size = 1;         // P
    int64_t hidden_size = 0;        // C
    int64_t num_heads = 0;          // H; D = C / H
    int64_t intermediate_size = 0;  // F
    int64_t max_positions = 0;      // most S
    double rope_theta = 10000.0;
    float rms_norm_eps = 1e-5f;
    bool channel_mix = false;
    bool prefix_conditioning = false;
    std::vector<FlowStage> flows;

    int64_t channels() const { return latent_size * patch_size; }
    /// The table of a mixture_rosenblatt flow: its own, or the codebook.
    int64_t components(const FlowStage& stage) const {
        return stage.num_components ? stage.num_components : vocab_size;
    }
    Status validate() const;
};
std::vector<TensorSpec> flow_tensors(const FlowConfig& config);

/// B sequences of T tokens, of which the first `prefix` are given. Both are multiples of P. ids [B*T] is host memory that
/// outlives the call; while inverting only its prefix tokens are read.
struct FlowBatch {
    const int32_t* ids = nullptr;
    int64_t B = 0;
    int64_t T = 0;
    int64_t prefix = 0;
};

/// Where a pass starts: with the tokens and the encoder's noise, or with h^(level) as given. Host memory, [B, T - prefix, d].
struct FlowLatents {
    const float* noise = nullptr;
    const double* given = nullptr;
    int64_t level = 0;  // of `given`
};

/// Where a call failed: positions first .. last of a sequence, as they stand in the text, its prefix counted.
struct FlowFault {
    int64_t flow = -1;  // -1: none, the codebook
    int64_t sequence = 0, first = 0, last = 0;
};

/// What a pass over all positions at once is to give back, in text order. Arrays that are not asked for, or of flows that a pass from a
/// higher level does not take, stay empty.
struct FlowPass {
    bool keep_states = false;
    std::vector<std::vector<float>> states;   // L + 1 times [B,N,c]: h^(0) = z .. h^(L) = u (channel mixing included)
    std::vector<std::vector<float>> log_det;  // L times [B,N]; of the last flow with keep_states only
    std::vector<std::vector<float>> log_density;  // L times [B,N]: log p of h^(l) given what the flow saw before
    std::vector<float> log_sum;                   // [B, T - prefix] log sum_k N_k(z), of a pass from level 0
    std::vector<float> nelbo;                     // [B,N] nats, telescoped (tarflowlm.md section 1), likewise
    std::optional<FlowFault> fault;               // of non_finite
};

/// States by the sequential inverse's own steps, in text order. A pass over all positions at once adds up in another order, and states
/// in f32 hold no token of more than 10 to 15 nats: what is to be inverted again to the bit comes from here. (With several mixtures above
/// each other a token that is unlikely to the lower ones may come back with other bits: models/flow/weights.h, grid_of.)
struct FlowTrace {
    int64_t to = -1;  // the last level that is wanted; -1: L, base noise
    std::vector<std::vector<double>>
        states;                      // L + 1 times [B,N,c], h^(l) on the grid of its level, but the last; of levels
                                     // below one given and above `to` empty
    std::optional<FlowFault> fault;  // of non_finite
};

/// A state read as tokens, position by position: h^(0) by the codebook's posterior, others by their readouts.
struct FlowReading {
    std::vector<int32_t> tokens;     // [positions * P] the likeliest
    std::vector<float> confidence;   // [positions * P] its probability
    std::optional<FlowFault> fault;  // of non_finite: sequence 0, positions of the state
};

/// How a flow is inverted. sequential: position after position, with cached keys and values. jacobi: in `modules` equal runs
/// of positions, each swept as a whole until no sequence changes by more than `tolerance` (one module: plain Jacobi; more:
/// Gauss-Seidel-Jacobi). With tolerance 0 both find the same state, to the bit. With a looser one sweeps rest earlier, at a state that may be
/// another text's; further from the noise than FlowInverse::residuals may be it is not_converged.
enum class InverseMethod : uint8_t { sequential, jacobi };
struct InversePlan {
    InverseMethod method = InverseMethod::sequential;
    int64_t modules = 1;
    int64_t sweeps = 0;  // most per module, then not_converged; 0: as many as it has positions, which always suffices
    float tolerance = 0.0f;
    bool from_zeros = false;  // sweeps start with zeros, else with the flow's noise
};

/// How the flow nearest the noise is drawn from instead of inverted (tarflowlm.md section 3.4): a component by its weight, a value from the
/// component; the same law as inverting base noise, without a search, and weights can be tempered and cut. Mixtures alone. Needs base
/// noise to start from, which the values are made with.
struct AncestralDraw {
    const uint64_t* seeds = nullptr;  // [B] host memory: of the components
    float temperature =
        1.0f;  // these three of a mixture_rosenblatt flow's weights, as of a vocabulary's (ops/sample.h)
    int64_t top_k = 0;
    float top_p = 1.0f;
};

/// The flows to invert: from h^(from) down to h^(to). Where `fixed` [B,N] is set, h^(to) is not sought but taken from
/// `given` [B,N,c], and what comes after it in its flow's order follows. Host memory.
struct InverseRange {
    int64_t from = -1;  // -1: L, base noise
    int64_t to = 0;
    const uint8_t* fixed = nullptr;
    const double* given = nullptr;
    std::vector<InversePlan> plans;          // one per flow of the model, or none: all sequential
    bool check = false;                      // run forward again what a sequential inverse found, too
    std::optional<AncestralDraw> ancestral;  // of flow L - 1, with from = L
};

/// What an inversion gives back, in text order.
struct FlowInverse {
    std::vector<double> state;      // [B,N,c] h^(to), on the grid of its level; as given where fixed; as drawn, in f32
    std::vector<int32_t> tokens;    // [B, T - prefix] argmax_k N_k(z); empty above level 0
    std::vector<float> confidence;  // [B, T - prefix] posterior of that token
    std::vector<std::vector<int32_t>> sweeps;  // per flow of the model [B]: sweeps that it took, or positions
    /// Per flow that sweeps inverted, with `check` per flow, [B]: max |u - f(h)| of what was found, h, run forward again, u being what
    /// it was inverted from; but where h was fixed. Of flows that were drawn from, or not inverted, empty.
    std::vector<std::vector<float>> residuals;
    std::optional<FlowFault> fault;  // of not_converged and non_finite
};

class WeightStore;
struct FlowWeights;

class FlowModel {
 public:
    static Status load(Engine& engine, const FlowConfig& config, const std::vector<TensorSource>& tensors,
                       Precision precision, std::unique_ptr<FlowModel>& out,
                       const std::atomic<bool>* cancelled = nullptr);
    ~FlowModel();

    const FlowConfig& config() const { return config_; }
    /// Of the bodies' products. Heads, couplings and the codebook are f32 always.
    Precision precision() const { return precision_; }
    size_t weight_bytes() const { return weight_bytes_; }
    int64_t parameters() const;

    /// Data to noise, all positions at once, in f32: likelihoods. non_finite names flow and position.
    Status encode(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, FlowPass& out,
                  const std::atomic<bool>* cancelled) const;
    /// Data to noise position after position, in double: what invert() gives back to the bit. non_finite names flow and position.
    Status trace(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, FlowTrace& out,
                 const std::atomic<bool>* cancelled) const;
    /// Reads h^(level) [positions,c]. unsupported where the level has no readout; non_finite names the flow that made the state, none at
    /// level 0, and the position.
    Status read(Engine& engine, int64_t level, const double* h, int64_t positions, FlowReading& out,
                const std::atomic<bool>* cancelled) const;
    /// Towards data: h [B,N,c] through the inverses of a range of flows, position after position with cached keys and values.
    /// not_converged names flow, sequence and positions where a search or sweeps did not reach their tolerance, or where what sweeps found
    /// leads elsewhere when it is run forward; non_finite those where a state, given or found, is too large for f32 or for the codebook to
    /// tell what token it is.
    Status invert(Engine& engine, const FlowBatch& batch, const double* h, const InverseRange& range, FlowInverse& out,
                  const std::atomic<bool>* cancelled) const;

    Status replace(Engine& engine, const float* flat);
    Status copy_to(Engine& engine, float* flat) const;

 private:
    FlowModel() = default;
    Status adopt(Engine& engine, const std::vector<TensorSource>& tensors,
                 const std::atomic<bool>* cancelled = nullptr);

    FlowConfig config_;
    Precision precision_ = Precision::f32;
    std::unique_ptr<WeightStore> store_;
    std::atomic<size_t> weight_bytes_{0};
    uint64_t identity_ = 0;  // changes when the weights do: part of a recorded inverse's recipe
    std::unique_ptr<FlowWeights> weights_;
};

/// How the readouts do on a batch: L arrays of [B, T - prefix], those of flows without a readout empty.
struct FlowReadings {
    std::vector<std::vector<float>> losses;    // nats
    std::vector<std::vector<int32_t>> tokens;  // the likeliest; of readings() only
};

/// What a training batch is judged by: sum over positions of weight * nelbo.
struct FlowObjective {
    const float* weights = nullptr;  // [B,N]
    float reconstruction = 1.0f;  // weight of -log p(x|z) alone: 2 -> 1 early in training lets token clusters separate
    /// Share of the objective that is the mean NELBO of the stack's beginnings: its first flow as a model of its own, its first two,
    /// and so on. Without it a flow before the strongest one has no reason to do anything.
    float beginnings = 0.0f;
};

/// A flow model in training: gradients of the telescoped NELBO, through z with the noise fixed.
class FlowTrainer : public TrainingState {
 public:
    static Status create(Engine& engine, std::shared_ptr<FlowModel> model, bool keep_average,
                         std::unique_ptr<FlowTrainer>& out);

    const FlowConfig& config() const { return model_->config(); }
    /// Flows below `stage`, the codebook when stage > 0 (its means, if they are fixed), and all readouts keep their values from now on (progressive training).
    void train_from(int64_t stage, bool fixed_means = false);
    /// All but the readouts keep their values from now on.
    void train_readouts();
    /// Adds gradients; `out` receives the pass's likelihoods.
    Status accumulate(Engine& engine, const FlowBatch& batch, const FlowLatents& latents,
                      const FlowObjective& objective, FlowPass& out, const std::atomic<bool>* cancelled);
    /// Adds the readouts' gradients: sum over tokens and levels of weight [B, T - prefix] * cross-entropy. Their states are given: nothing
    /// else gets a gradient.
    Status accumulate_readouts(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, const float* weights,
                               FlowReadings& out, const std::atomic<bool>* cancelled);
    Status readings(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, bool average, FlowReadings& out,
                    const std::atomic<bool>* cancelled);
    /// A pass with the current parameters, or with their average.
    Status encode(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, bool average, FlowPass& out,
                  const std::atomic<bool>* cancelled);
    Status publish(Engine& engine, bool average);

 private:
    FlowWeights weights(TrainerBuffer buffer) const;

    std::shared_ptr<FlowModel> model_;
    int64_t stage_ = 0;
};

}  // namespace noema
