// The gradients of a batch: forward, then the same lines from bottom to top. What lies between embedding and head is a Trunk, what the head's
// losses weigh is the caller's.
#include "models/masked/backward.h"

namespace noema {

Predictions::Predictions(const MaskedConfig& config, const MaskedBatch& batch, const std::vector<int32_t>* rows,
                         const View& output, Context& c)
    : output_(output) {
    const int64_t R = output.shape[0], C = output.shape[1];
    const auto matrix = [&](int64_t n) { return c.arena->tensor(DType::f32, n, C); };
    hidden = output, d_hidden = d_output = matrix(rows ? static_cast<int64_t>(rows->size()) : R);
    if (!config.shifted && !rows) return;
    for (int64_t i = 0; i < d_hidden.shape[0]; ++i)
        sources_.push_back(predicting_row(config, batch, rows ? (*rows)[i] : i));
    source_view_ = c.upload(view(sources_.data(), DType::i32, d_hidden.shape[0]));
    hidden = matrix(d_hidden.shape[0]), d_output = matrix(R);
}

Status Predictions::forward(Context& c) const {
    if (!source_view_) return {};
    return embedding({.ids = source_view_, .table = output_, .y = hidden}, c);
}

Status Predictions::backward(Context& c) const {
    if (!source_view_) return {};
    NOEMA_TRY(c.clear(d_output));
    return embedding_backward({.ids = source_view_, .d_y = d_hidden, .d_table = d_output}, c);
}

Status through_network(const MaskedPass& p, const std::vector<int32_t>* rows, const Judge& judge, Context& c) {
    ArenaScope scope(*c.arena);
    const BatchViews views = upload_batch(p.batch, c);
    const BlockShape shape = block_shape(p.config, p.batch, views.mask, p.precision);
    const TrunkParts parts{p.config, p.weights, p.gradients, shape};
    const std::unique_ptr<Trunk> trunk = p.config.is_dit() ? dit_trunk(parts, *c.arena) : llama_trunk(parts, *c.arena);
    const Predictions predictions(p.config, p.batch, rows, trunk->output, c);

    // x = embed[ids]
    NOEMA_TRY(embedding({.ids = views.ids, .table = p.weights.embed.view, .y = trunk->input}, c));
    NOEMA_TRY(trunk->forward(c));
    NOEMA_TRY(predictions.forward(c));

    NOEMA_TRY(judge(predictions));

    // hidden = the outputs that predict
    NOEMA_TRY(predictions.backward(c));
    const View d_x = c.arena->tensor(DType::f32, shape.rows(), shape.C);
    NOEMA_TRY(trunk->backward(predictions.d_output, d_x, c));

    // x = embed[ids]
    return embedding_backward({.ids = views.ids, .d_y = d_x, .d_table = p.gradients.embed}, c);
}

Status masked_gradients(const MaskedConfig& config, const MaskedWeights& w, const MaskedGradients& g,
                        const MaskedBatch& batch, const MaskedObjective& objective, Precision precision, Context& c) {
    const MaskedPass pass{config, w, g, batch, precision};
    return through_network(
        pass, nullptr,
        [&](const Predictions& predictions) {
            const int64_t R = batch.B * batch.T;
            const View loss = c.arena->tensor(DType::f32, R);
            // loss = sum row_weight * cross_entropy(head hidden)
            CrossEntropy op = head_loss(pass, predictions, loss, objective.excluded_id);
            op.targets = c.upload(view(const_cast<int32_t*>(objective.targets), DType::i32, R));
            op.row_weight = c.upload(view(const_cast<float*>(objective.row_weights), DType::f32, R));
            NOEMA_TRY(cross_entropy(with_gradients(op, pass, predictions), c));
            c.fetch(loss, objective.losses);
            return Status{};
        },
        c);
}

}  // namespace noema
