// The decoder's weights by role, and the passes that the model and the trainer share.
#pragma once

#include "models/layers/block_roles.h"
#include "noema/thought_model.h"

namespace noema {

struct ThoughtWeights : LanguageModelWeights {};
struct ThoughtGradients : LanguageModelGradients {};

/// Fills the roles by looking every canonical name up.
ThoughtWeights bind_weights(const ThoughtConfig& config, const std::function<Weight(const std::string&)>& find);
ThoughtGradients bind_gradients(const ThoughtConfig& config, const std::function<View(const std::string&)>& find);

/// A decoder as all passes see it: the model's own weights, or a trainer's.
struct ThoughtNetwork {
    const ThoughtConfig& config;
    const ThoughtWeights& weights;
    Precision precision;
    uint64_t identity;  // of the weights, for recipes

    BlockShape block(int64_t B, int64_t T) const;
};

/// Refuses impossible sizes and ids, before any work.
Status check_batch(const ThoughtConfig& config, const ThoughtBatch& batch);

// --- latents: z [B,N*C] to the tokens ---------------------------------------------------------------------------------------

/// z as the blocks read it. Rows are grouped by layer, so that each layer's are one matrix.
struct LatentReading {
    View place;  // [L*B*M,C] the latent embeddings, once per sequence
    View rows;   // [L*B*M,C] z + place
    std::vector<Latents> layers;
};
/// Room, and the embeddings in their places: what does not depend on z.
Status open_reading(const ThoughtNetwork& network, const BlockShape& shape, LatentReading& out, Context& context);
Status read_latents(const ThoughtNetwork& network, const BlockShape& shape, const View& z, const LatentReading& reading,
                    Context& context);
/// From the gradients of keys and values, in `latents`: d_z [B,N*C] assigned, or empty; weight gradients, where there are any, added.
Status read_latents_backward(const ThoughtNetwork& network, const BlockShape& shape, const LatentReading& reading,
                             const std::vector<BlockGradients>& gradients, const View& d_z, Context& context);

// --- the decoder --------------------------------------------------------------------------------------------------------

/// Who looks on, where set: at the embedding and then every block's residual stream [B*T,C]; at every block's weights of its latents [B,T,H,M].
struct ThoughtOnlooker {
    std::function<void(const View&)> stream, attention;
};
/// A whole pass to the final norm: hidden [B*T,C].
Status thought_forward(const ThoughtNetwork& network, const BlockShape& shape, const View& ids, const View& z,
                       const View& hidden, Context& context, const ThoughtOnlooker& onlooker = {});

/// What a pass keeps. Up to the first block's reading nothing depends on z: that ground is laid once and serves every z.
struct ThoughtActivations {
    View ids;  // [B*T]
    std::vector<BlockActivations> blocks;
    LatentReading reading;
    View last;     // [B*T,C] the last block's output
    View inv_rms;  // [B*T] of the final norm
    View hidden;   // [B*T,C] the final norm's output
};
/// Room for all that backward reads, or, when nothing but scores is wanted, for a pass that keeps the ground alone.
enum class Keep : uint8_t { everything, ground };
Status lay_ground(const ThoughtNetwork& network, const BlockShape& shape, const View& ids, Keep keep,
                  ThoughtActivations& out, Context& context);
/// From z [B,N*C] to `hidden`.
Status forward_from_ground(const ThoughtNetwork& network, const BlockShape& shape, const View& z,
                           const ThoughtActivations& kept, Context& context);

/// Cross-entropies of the targets [B*T]: their rows, and their sum by sequence.
struct ThoughtScores {
    View targets;      // [B*T]
    View row_weights;  // [B*T], optional: of the gradient
    View losses;       // [B*T]
    View sums;         // [B], optional
};
/// d_hidden [B*T,C] and d_head [V,C] (+=): optional.
Status score(const ThoughtNetwork& network, const BlockShape& shape, const ThoughtActivations& kept,
             const ThoughtScores& scores, const View& d_hidden, const View& d_head, Context& context);

/// The gradient of what `score` left in d_hidden: d_z [B,N*C] assigned, and that of the weights added; either may be left out (empty, null).
struct ThoughtBackward {
    View d_hidden;  // [B*T,C]
    View d_z;
    const ThoughtGradients* gradients = nullptr;
};
Status thought_backward(const ThoughtNetwork& network, const BlockShape& shape, const ThoughtActivations& kept,
                        const ThoughtBackward& backward, Context& context);

// --- whole calls --------------------------------------------------------------------------------------------------------

Status thought_losses(Engine& engine, const ThoughtNetwork& network, const ThoughtBatch& batch, const float* z,
                      float* losses, const std::atomic<bool>* cancelled);
/// `trajectory`: where every step's weight gradients are added, or null.
Status thought_fit(Engine& engine, const ThoughtNetwork& network, const FitTask& task,
                   const ThoughtGradients* trajectory, Posterior& out, const std::atomic<bool>* cancelled);
Status thought_bound(Engine& engine, const ThoughtNetwork& network, const BoundTask& task, Bound& out,
                     const std::atomic<bool>* cancelled);
Status thought_continue(Engine& engine, const ThoughtNetwork& network, const ContinuationTask& task, Continuation& out,
                        const std::atomic<bool>* cancelled);

}  // namespace noema
