// forward.cpp for training, then the same lines from bottom to top.
#include "models/masked/weights.h"

namespace noema {

namespace {

struct Kept {
    std::vector<BlockActivations> blocks;
    View last;     // [R,C] the last block's output
    View inv_rms;  // [R] of the final norm
    View hidden;   // [R,C] the final norm's output
};

Kept keep(const BlockShape& shape, int64_t layers, Arena& arena) {
    Kept k;
    for (int64_t i = 0; i < layers; ++i) k.blocks.push_back(keep_activations(shape, arena));
    k.last = arena.tensor(DType::f32, shape.rows(), shape.C);
    k.inv_rms = arena.tensor(DType::f32, shape.rows());
    k.hidden = arena.tensor(DType::f32, shape.rows(), shape.C);
    return k;
}

Status cancelled_during(const char* what) {
    return Status::error(Code::aborted, "the %s pass was cancelled", what);
}

Status forward_keeping(const MaskedConfig& config, const MaskedWeights& w, const View& ids, const BlockShape& shape,
                       const Kept& k, Context& c) {
    NOEMA_TRY(embedding({.ids = ids, .table = w.embed.view, .y = k.blocks[0].x}, c));
    for (size_t i = 0; i < w.blocks.size(); ++i) {
        if (c.stream.is_cancelled()) return cancelled_during("forward");
        const View& out = i + 1 < w.blocks.size() ? k.blocks[i + 1].x : k.last;
        NOEMA_TRY(block_forward_keeping(shape, w.blocks[i], k.blocks[i], out, c));
    }
    return rms_norm(
        {.x = k.last, .weight = w.norm, .y = k.hidden, .inv_rms = k.inv_rms, .epsilon = config.rms_norm_eps}, c);
}

}  // namespace

Status masked_gradients(const MaskedConfig& config, const MaskedWeights& w, const MaskedGradients& g,
                        const MaskedBatch& batch, const MaskedObjective& objective, Precision precision, Context& c) {
    ArenaScope scope(*c.arena);
    const BatchViews views = upload_batch(batch, c);
    const BlockShape shape = block_shape(config, batch, views.mask, precision);
    const int64_t R = shape.rows(), C = shape.C;
    const Kept k = keep(shape, config.num_layers, *c.arena);
    NOEMA_TRY(forward_keeping(config, w, views.ids, shape, k, c));

    // loss = sum row_weight * cross_entropy(head hidden)
    const View d_hidden = c.arena->tensor(DType::f32, R, C), d_x = c.arena->tensor(DType::f32, R, C);
    const View loss = c.arena->tensor(DType::f32, R);
    NOEMA_TRY(cross_entropy({.hidden = k.hidden,
                             .weight = w.head,
                             .targets = c.upload(view(const_cast<int32_t*>(objective.targets), DType::i32, R)),
                             .row_weight = c.upload(view(const_cast<float*>(objective.row_weights), DType::f32, R)),
                             .loss = loss,
                             .d_hidden = d_hidden,
                             .d_weight = g.head,
                             .excluded_id = objective.excluded_id,
                             .precision = precision},
                            c));
    c.fetch(loss, objective.losses);

    // hidden = rms_norm(last)
    NOEMA_TRY(rms_norm_backward(
        {.x = k.last, .weight = w.norm, .inv_rms = k.inv_rms, .d_y = d_hidden, .d_x = d_x, .d_weight = g.norm}, c));

    for (size_t i = w.blocks.size(); i-- > 0;) {
        if (c.stream.is_cancelled()) return cancelled_during("backward");
        NOEMA_TRY(block_backward(shape, w.blocks[i], k.blocks[i], g.blocks[i], d_x, c));
    }

    // x = embed[ids]
    return embedding_backward({.ids = views.ids, .d_y = d_x, .d_table = g.embed}, c);
}

}  // namespace noema
