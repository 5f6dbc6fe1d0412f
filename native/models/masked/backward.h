// What the gradients of all objectives share.
#pragma once

#include <functional>
#include <vector>

#include "models/masked/trunk.h"

namespace noema {

struct MaskedPass {
    const MaskedConfig& config;
    const MaskedWeights& weights;
    const MaskedGradients& gradients;
    const MaskedBatch& batch;
    Precision precision;
};

/// The trunk's outputs that predict the positions `rows`, which may name one more than once: without them every position. They are gathered
/// where they are not simply all outputs in their order.
class Predictions {
 public:
    View hidden, d_hidden;  // [S,C] for the head
    View d_output;          // [R,C] for the trunk

    Predictions(const MaskedConfig& config, const MaskedBatch& batch, const std::vector<int32_t>* rows,
                const View& output, Context& context);
    Status forward(Context& context) const;
    Status backward(Context& context) const;

 private:
    View output_;
    std::vector<int32_t> sources_;
    View source_view_;
};

/// Forward, `judge`, which assigns d_hidden and adds the head's gradients, and backward.
using Judge = std::function<Status(const Predictions&)>;
Status through_network(const MaskedPass& pass, const std::vector<int32_t>* rows, const Judge& judge, Context& context);

/// The head's cross-entropy; the caller adds targets and weights.
inline CrossEntropy head_loss(const MaskedPass& p, const Predictions& predictions, const View& loss,
                              int64_t excluded_id) {
    return {.hidden = predictions.hidden,
            .weight = p.weights.head,
            .bias = p.weights.head_bias,
            .loss = loss,
            .excluded_id = excluded_id,
            .precision = p.precision};
}

inline CrossEntropy with_gradients(CrossEntropy op, const MaskedPass& p, const Predictions& predictions) {
    op.d_hidden = predictions.d_hidden, op.d_weight = p.gradients.head, op.d_bias = p.gradients.head_bias;
    return op;
}

}  // namespace noema
