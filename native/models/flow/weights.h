// The stack's weights by role, and the passes that the model and the trainer share.
#pragma once

#include "models/layers/transformer_block.h"
#include "noema/flow_model.h"

namespace noema {

/// One flow. W: Weight or View; L: BiasedWeight or BiasedGradient; Block: BlockWeights or BlockGradients.
template <class W, class L, class Block>
struct StageRoles {
    View start;  // [c]
    L input;     // [C,c]
    W context;   // [C,c], with prefix_conditioning
    std::vector<Block> blocks;
    View norm;         // [C]
    L head;            // affine [2c,C], mixture_rosenblatt [P*K,C]
    View mean;         // [K,d] own components of a mixture_rosenblatt flow (else the codebook)
    View log_sigma;    // [K]
    L embed;           // mixture_cdf: [(c-1)*E,3]
    L maf_context;     // [c*M,C]
    View features;     // [c*M,(c-1)*E]
    L maf_out;         // [c*3K,M]
    L readout;         // [P*Mr,c]
    W readout_output;  // [V,Mr]
};
using StageWeights = StageRoles<Weight, BiasedWeight, BlockWeights>;
using StageGradients = StageRoles<View, BiasedGradient, BlockGradients>;

template <class Stage>
struct StackRoles {
    View mean;       // [V,d] the codebook
    View log_sigma;  // [V]
    std::vector<Stage> flows;
};
struct FlowWeights : StackRoles<StageWeights> {};
struct FlowGradients : StackRoles<StageGradients> {};

/// Fills the roles by looking every canonical name up.
FlowWeights bind_weights(const FlowConfig& config, const std::function<Weight(const std::string&)>& find);
FlowGradients bind_gradients(const FlowConfig& config, const std::function<View(const std::string&)>& find);

/// Sizes of one call.
struct FlowShape {
    const FlowConfig& config;
    Precision precision;
    int64_t B, m, N;

    int64_t P() const { return config.patch_size; }
    int64_t d() const { return config.latent_size; }
    int64_t c() const { return config.channels(); }
    int64_t C() const { return config.hidden_size; }
    int64_t S() const { return m + N; }
    int64_t rows() const { return B * N; }
    int64_t tokens() const { return B * N * P(); }
    BlockShape block(int64_t T) const;
};

/// Refuses impossible sizes and ids, before any work.
Status check_batch(const FlowConfig& config, const FlowBatch& batch, bool whole);
/// The same of a pass towards noise, with where it starts.
Status check_pass(const FlowConfig& config, const FlowBatch& batch, const FlowLatents& latents);
FlowShape shape_of(const FlowConfig& config, const FlowBatch& batch, Precision precision);

/// A state read as tokens.
Status flow_read(Engine& engine, const FlowConfig& config, const FlowWeights& weights, int64_t level, const View& h,
                 Precision precision, FlowReading& out, const std::atomic<bool>* cancelled);
/// Of a batch whose states are known: the readouts' losses, and either their tokens or, with `gradients`, what they add.
struct FlowReadingTask {
    const FlowBatch& batch;
    const std::vector<std::vector<float>>& states;
    const float* weights;  // [B, T - prefix], with gradients
};
Status flow_readings(Engine& engine, const FlowShape& shape, const FlowWeights& weights, const FlowGradients* gradients,
                     const FlowReadingTask& task, FlowReadings& out, const std::atomic<bool>* cancelled);

/// A batch's tokens where ops can read them, prefix and suffix apart.
struct FlowTokens {
    explicit FlowTokens(const FlowBatch& batch);
    std::vector<int32_t> prefix;  // [B * m * P]
    std::vector<int32_t> suffix;  // [B * N * P]
};
/// z [B*N*P,d] f32: where a pass starts, whatever its level.
Status first_state(const FlowShape& shape, const FlowWeights& weights, const FlowLatents& latents, FlowTokens& tokens,
                   const View& z, Context& context);
/// [B*m,c] codebook means of the prefix, or empty.
Status prefix_means(const FlowShape& shape, const View& ids, const View& mean, View& out, Context& context);

// --- the body of a flow: continuous inputs in, features of what came before out -----------------------------------------

/// What one flow's backward reads. All rows stand in the flow's own order.
struct StageActivations {
    View ordered;  // [B*N,c] the flow's input
    View shifted;  // [B*N,c] the same one position late: what the body reads
    std::vector<BlockActivations> blocks;
    View last;     // [B*S,C] the residual stream after the blocks
    View suffix;   // [B*N,C] its rows after the prefix; `last` itself without one
    View inv_rms;  // [B*N]
    View g;        // [B*N,C] the final norm
};
StageActivations keep_activations(const FlowShape& shape, const FlowStage& stage, Arena& arena);

/// Rows of a [B*S,C] body, first .. first + count of every sequence, as [B,count,C].
View part_of_body(const FlowShape& shape, const View& body, int64_t first, int64_t count);
/// [B*n,w] as [B,n,w].
View by_sequence(const View& rows, int64_t B);

/// shifted [B*N,c] -> g [B*N,C], nothing kept.
Status body_forward(const FlowShape& shape, const StageWeights& weights, const View& shifted, const View& prefix,
                    const View& g, Context& context);
/// The same from and into kept activations.
Status body_forward_keeping(const FlowShape& shape, const StageWeights& weights, const View& prefix,
                            const StageActivations& kept, Context& context);
/// d_g [B*N,C] -> d_shifted [B*N,c] assigned; d_prefix [B*m,c] +=. Weight gradients are added.
struct BodyGradients {
    View g, shifted, prefix;
};
Status body_backward(const FlowShape& shape, const StageWeights& weights, const StageActivations& kept,
                     const StageGradients& gradients, const View& prefix, const BodyGradients& d, Context& context);

// --- the head and the coupling: features and the flow's input in, noise out --------------------------------------------

/// A stage with what its coupling reads beside its own weights.
struct Coupling {
    const FlowConfig& config;
    const FlowStage& stage;
    const StageWeights& weights;
    View mean, log_sigma;  // the components' table of a mixture_rosenblatt flow

    /// Rows that the coupling reports per position: P tokens, or the position itself.
    int64_t units() const { return stage.kind == FlowKind::mixture_rosenblatt ? config.patch_size : 1; }
    /// Entries of uncouple's `failed` per row.
    int64_t searches() const { return stage.kind == FlowKind::mixture_cdf ? config.channels() : units(); }
};
Coupling coupling_of(const FlowConfig& config, const FlowWeights& weights, size_t flow);

/// u [R,c]; log_density, log_det [R * units]; each optional.
struct CouplingOutput {
    View u, log_density, log_det;
};
Status couple(const Coupling& coupling, const View& g, const View& h, const CouplingOutput& out, Context& context);

/// d_u optional; d_log_density, d_log_det [R * units], optional; d_h, d_g assigned. d_mean, d_log_sigma: the table's, optional.
struct CouplingGradients {
    CouplingOutput upstream;
    View g, h;
    View mean, log_sigma;
};
Status couple_backward(const Coupling& coupling, const View& g, const View& h, const StageGradients& gradients,
                       const CouplingGradients& d, Context& context);

/// The noise of one draw, position for position: [R,c] normal, and of mixture_cdf [R,c] uniform in (0, 1). Of mixture_rosenblatt what `sample`
/// asks for, once per token of a row: [P,R].
struct CouplingDraw {
    View normal, uniform;
    View seeds;      // [R] i64
    View positions;  // [P,R] i32
    AncestralDraw way;
};
/// h [R,c] f64, though no finer than f32, drawn from the mixtures that the head makes of g [R,C].
Status draw_from(const Coupling& coupling, const View& g, const CouplingDraw& draw, const View& h, Context& context);

/// Wide states [R,c] through a coupling: h with couple(h) = u, or `forward` u, by the very same steps. What is found is rounded to `grid`.
/// failed counts scalars whose search did not converge: [c,R] for mixture_cdf, whose scalars are found one after the other,
/// [R * units] else; unused by affine flows and forward. Optional.
struct Uncoupling {
    View u, h, failed;
    double grid = 0;
    bool forward = false;
};
Status uncouple(const Coupling& coupling, const View& g, const Uncoupling& p, Context& context);

// --- whole passes -------------------------------------------------------------------------------------------------------

Status flow_encode(Engine& engine, const FlowConfig& config, const FlowWeights& weights, const FlowBatch& batch,
                   const FlowLatents& latents, Precision precision, FlowPass& out, const std::atomic<bool>* cancelled);

/// The same by the steps of the inverse.
Status flow_trace(Engine& engine, const FlowConfig& config, const FlowWeights& weights, const FlowBatch& batch,
                  const FlowLatents& latents, Precision precision, FlowTrace& out, const std::atomic<bool>* cancelled);

/// The grid of h^(level). An inverse errs by half the grid of the level above, stretched by the flow, and gives back its own grid to the
/// bit where that is less than half of it. So grids get finer towards noise; 2^-20, the data's, is a hundred-thousandth of a token's
/// sigma. Base noise has none. Double is fine enough for one mixture on top of up to four affine flows, or below one; of stacks with more,
/// unlikely tokens come back to within the grid of their level.
double grid_of(const FlowConfig& config, size_t level);

/// A state [B,N,c] towards data, sequentially. The batch's prefix is read, its other tokens are not.
struct FlowInversion {
    const FlowBatch& batch;
    const double* state;
    InverseRange range;
    uint64_t identity;  // of the weights
};
Status flow_invert(Engine& engine, const FlowShape& shape, const FlowWeights& weights, const FlowInversion& inversion,
                   FlowInverse& out, const std::atomic<bool>* cancelled);

/// One training call's host arrays; they outlive it.
struct FlowLesson {
    FlowLesson(const FlowShape& shape, const FlowBatch& batch, const FlowLatents& latents,
               const FlowObjective& objective);
    FlowTokens tokens;
    const float* noise;  // [B*N*P,d]
    std::vector<std::vector<float>> log_density,
        log_det;                   // L: a flow's gradients, its rows in its own order; empty: none
    std::vector<float> log_sum;    // [B*N*P] the gradient of log_sum
    std::vector<float> log_sigma;  // [B*N*P] what over-weighting the reconstruction asks of log_sigma
};
/// Forward and backward: adds the gradients of the flows from `stage` on, and of the codebook when that is 0.
Status flow_gradients(const FlowShape& shape, const FlowWeights& weights, const FlowGradients& gradients,
                      FlowLesson& lesson, size_t stage, FlowPass& out, Context& context);

/// Room for what a pass from flow `first` on fetches; and, once that is there, its numbers per position in text order, nelbo among them.
void make_room(const FlowShape& shape, size_t first, FlowPass& pass);
void telescope(const FlowShape& shape, FlowPass& pass);

/// How a flow's output is mixed on its way to the next.
ChannelOrder mixing(const FlowShape& shape, size_t flow);

}  // namespace noema
