// forward.cpp read from bottom to top; each paragraph names the forward line that it differentiates.
#include "models/thought/weights.h"

namespace noema {

namespace {

/// Room for the gradients of one layer's keys and values after the other: those of the weights, where wanted, are the caller's.
std::vector<BlockGradients> block_gradients(const BlockShape& s, size_t layers, const ThoughtGradients* weights,
                                            Context& c) {
    std::vector<BlockGradients> all(layers);
    if (weights) all = weights->blocks;
    const auto room = [&] { return c.arena->tensor(DType::f32, s.B, s.M, s.H, s.D); };
    for (BlockGradients& g : all) g.latents = {room(), room()};
    return all;
}

}  // namespace

Status thought_backward(const ThoughtNetwork& network, const BlockShape& s, const ThoughtActivations& k,
                        const ThoughtBackward& b, Context& c) {
    const ThoughtWeights& w = network.weights;
    ArenaScope scope(*c.arena);
    const View d_x = c.arena->tensor(DType::f32, s.rows(), s.C);
    const std::vector<BlockGradients> gradients = block_gradients(s, w.blocks.size(), b.gradients, c);

    // hidden = rms_norm(last)
    NOEMA_TRY(rms_norm_backward({.x = k.last,
                                 .weight = w.norm,
                                 .inv_rms = k.inv_rms,
                                 .d_y = b.d_hidden,
                                 .d_x = d_x,
                                 .d_weight = b.gradients ? b.gradients->norm : View{}},
                                c));

    for (size_t i = w.blocks.size(); i-- > 0;) {
        if (c.stream.is_cancelled()) return Status::error(Code::aborted, "the backward pass was cancelled");
        if (i > 0 || b.gradients) {
            NOEMA_TRY(block_backward(s, w.blocks[i], k.blocks[i], gradients[i], d_x, c));
            continue;
        }
        // z enters the first block by its reading: of what lies below, the ground, nobody asks the gradient.
        const BlockPass pass{s, w.blocks[i], k.blocks[i], gradients[i]};
        NOEMA_TRY(mlp_backward(pass, d_x, c));
        NOEMA_TRY(reading_backward(pass, d_x, {}, c));
    }

    // keys and values of z
    NOEMA_TRY(read_latents_backward(network, s, k.reading, gradients, b.d_z, c));

    // x = embed[ids]
    if (!b.gradients) return {};
    return embedding_backward({.ids = k.ids, .d_y = d_x, .d_table = b.gradients->embed}, c);
}

}  // namespace noema
