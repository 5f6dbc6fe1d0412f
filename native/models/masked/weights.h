// The network's weights by role, and the store that owns their memory.
#pragma once

#include <functional>

#include "models/layers/block_roles.h"
#include "models/masked/dit.h"

namespace noema {

/// A DiT has its blocks in `dit`, the others in `blocks`.
struct MaskedWeights : LanguageModelWeights {
    DitWeights dit;
    View head_bias;  // [V], of a DiT
};
struct MaskedGradients : LanguageModelGradients {
    DitGradients dit;
    View head_bias;
};

/// Fills the roles by looking every canonical name up.
MaskedWeights bind_weights(const MaskedConfig& config, const std::function<Weight(const std::string&)>& find);
MaskedGradients bind_gradients(const MaskedConfig& config, const std::function<View(const std::string&)>& find);

BlockShape block_shape(const MaskedConfig& config, const MaskedBatch& batch, const AttentionMask& mask,
                       Precision precision);

/// A batch where ops can read it.
struct BatchViews {
    View ids;  // [R]
    AttentionMask mask;
};
BatchViews upload_batch(const MaskedBatch& batch, Context& context);

/// The row of the hidden states whose output is the prediction for a row of the canvas: its own, or, in a shifted network, the one before
/// (the sequence's first visible position, which has none, is predicted by its own).
int32_t predicting_row(const MaskedConfig& config, const MaskedBatch& batch, int64_t row);

/// Refuses ids outside the vocabulary, impossible sizes and key ranges, before any work.
Status check_batch(const MaskedConfig& config, const MaskedBatch& batch);

/// One forward pass to the final norm: hidden [B*T, C]. `observe`, when set, sees the embedding, every block's residual stream, the final
/// norm, and the condition of a DiT.
Status masked_forward(const MaskedConfig& config, const MaskedWeights& weights, const MaskedBatch& batch,
                      Precision precision, const View& hidden, Context& context,
                      const std::function<void(const View&)>& observe = {});

/// Losses [B*T] of the scored rows, 0 elsewhere; the vocabulary projection runs for scored rows only.
Status masked_losses(Engine& engine, const MaskedConfig& config, const MaskedWeights& weights, const MaskedBatch& batch,
                     const int32_t* targets, int64_t excluded_id, Precision precision, float* losses,
                     const std::atomic<bool>* cancelled);

/// Forward and backward: adds the gradients of sum(row_weight * loss).
Status masked_gradients(const MaskedConfig& config, const MaskedWeights& weights, const MaskedGradients& gradients,
                        const MaskedBatch& batch, const MaskedObjective& objective, Precision precision,
                        Context& context);

/// The same of pairs. Waits for the losses half-way, which say how much each sequence counts.
Status masked_pair_gradients(const MaskedConfig& config, const MaskedWeights& weights, const MaskedGradients& gradients,
                             const MaskedBatch& batch, const MaskedPairs& pairs, PairResult& result,
                             Precision precision, Context& context);

}  // namespace noema
