// The gradients of a batch: forward, then the same lines from bottom to top. What lies between embedding and head is a Trunk.
#include "models/masked/trunk.h"

namespace noema {

namespace {

/// The trunk's outputs by the position that they predict: as they are, or in a shifted network gathered from the positions before.
class Predictions {
 public:
    View hidden, d_hidden;  // [R,C] for the head
    View d_output;          // [R,C] for the trunk

    Predictions(const MaskedConfig& config, const MaskedBatch& batch, const View& output, Context& c)
        : output_(output) {
        const int64_t R = output.shape[0];
        const auto rows = [&] { return c.arena->tensor(DType::f32, R, output.shape[1]); };
        hidden = output, d_hidden = d_output = rows();
        if (!config.shifted) return;
        for (int64_t r = 0; r < R; ++r) sources_.push_back(predicting_row(config, batch, r));
        source_view_ = c.upload(view(sources_.data(), DType::i32, R));
        hidden = rows(), d_output = rows();
    }
    Status forward(Context& c) const {
        if (sources_.empty()) return {};
        return embedding({.ids = source_view_, .table = output_, .y = hidden}, c);
    }
    Status backward(Context& c) const {
        if (sources_.empty()) return {};
        NOEMA_TRY(c.clear(d_output));
        return embedding_backward({.ids = source_view_, .d_y = d_hidden, .d_table = d_output}, c);
    }

 private:
    View output_;
    std::vector<int32_t> sources_;
    View source_view_;
};

}  // namespace

Status masked_gradients(const MaskedConfig& config, const MaskedWeights& w, const MaskedGradients& g,
                        const MaskedBatch& batch, const MaskedObjective& objective, Precision precision, Context& c) {
    ArenaScope scope(*c.arena);
    const BatchViews views = upload_batch(batch, c);
    const BlockShape shape = block_shape(config, batch, views.mask, precision);
    const int64_t R = shape.rows(), C = shape.C;
    const TrunkParts parts{config, w, g, shape};
    const std::unique_ptr<Trunk> trunk = config.is_dit() ? dit_trunk(parts, *c.arena) : llama_trunk(parts, *c.arena);
    const Predictions predictions(config, batch, trunk->output, c);

    // x = embed[ids]
    NOEMA_TRY(embedding({.ids = views.ids, .table = w.embed.view, .y = trunk->input}, c));
    NOEMA_TRY(trunk->forward(c));
    NOEMA_TRY(predictions.forward(c));

    // loss = sum row_weight * cross_entropy(head hidden)
    const View loss = c.arena->tensor(DType::f32, R), d_x = c.arena->tensor(DType::f32, R, C);
    NOEMA_TRY(cross_entropy({.hidden = predictions.hidden,
                             .weight = w.head,
                             .bias = w.head_bias,
                             .targets = c.upload(view(const_cast<int32_t*>(objective.targets), DType::i32, R)),
                             .row_weight = c.upload(view(const_cast<float*>(objective.row_weights), DType::f32, R)),
                             .loss = loss,
                             .d_hidden = predictions.d_hidden,
                             .d_weight = g.head,
                             .d_bias = g.head_bias,
                             .excluded_id = objective.excluded_id,
                             .precision = precision},
                            c));
    c.fetch(loss, objective.losses);

    // hidden = the outputs that predict
    NOEMA_TRY(predictions.backward(c));
    NOEMA_TRY(trunk->backward(predictions.d_output, d_x, c));

    // x = embed[ids]
    return embedding_backward({.ids = views.ids, .d_y = d_x, .d_table = g.embed}, c);
}

}  // namespace noema
