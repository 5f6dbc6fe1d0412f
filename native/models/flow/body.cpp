// The body of a flow: a causal transformer over continuous inputs. Prefix positions stand first, whatever the direction.
#include "models/flow/coupling.h"

namespace noema {

BlockShape FlowShape::block(int64_t T) const {
    return {.B = B,
            .T = T,
            .C = C(),
            .H = config.num_heads,
            .Hkv = config.num_heads,
            .D = C() / config.num_heads,
            .F = config.intermediate_size,
            .epsilon = config.rms_norm_eps,
            .rope_theta = config.rope_theta,
            .mask = {.causal = true},
            .precision = precision};
}

View by_sequence(const View& rows, int64_t B) {
    return as_shape(rows, {B, B ? rows.shape[0] / B : 0, rows.shape[1]});
}

View part_of_body(const FlowShape& s, const View& body, int64_t first, int64_t count) {
    const View all = by_sequence(body, s.B);
    View part = moved(all, first * all.stride[1]);
    part.shape[1] = count;
    return part;
}

StageActivations keep_activations(const FlowShape& s, const FlowStage& stage, Arena& arena) {
    constexpr DType t = DType::f32;
    StageActivations a;
    a.ordered = arena.tensor(t, s.rows(), s.c());
    a.shifted = arena.tensor(t, s.rows(), s.c());
    for (int64_t i = 0; i < stage.num_layers; ++i) a.blocks.push_back(keep_activations(s.block(s.S()), arena));
    a.last = arena.tensor(t, s.B * s.S(), s.C());
    a.suffix = s.m ? arena.tensor(t, s.rows(), s.C()) : a.last;
    a.inv_rms = arena.tensor(t, s.rows());
    a.g = arena.tensor(t, s.rows(), s.C());
    return a;
}

namespace {

/// What enters the blocks: lifted prefix means, then lifted inputs.
Status lift(const FlowShape& s, const StageWeights& w, const View& shifted, const View& prefix, const View& body,
            Context& c) {
    if (!s.m) return exact_linear(w.input, shifted, body, c);
    ArenaScope scope(*c.arena);
    const View rows = c.arena->tensor(DType::f32, s.rows(), s.C());
    const View lifted = c.arena->tensor(DType::f32, s.B * s.m, s.C());
    NOEMA_TRY(exact_linear(w.input, shifted, rows, c));
    NOEMA_TRY(linear(w.context, prefix, lifted, {}, Precision::f32, c));
    NOEMA_TRY(reorder({.x = by_sequence(lifted, s.B), .y = part_of_body(s, body, 0, s.m)}, c));
    return reorder({.x = by_sequence(rows, s.B), .y = part_of_body(s, body, s.m, s.N)}, c);
}

Status take_suffix(const FlowShape& s, const View& body, const View& suffix, Context& c) {
    if (!s.m) return {};
    return reorder({.x = part_of_body(s, body, s.m, s.N), .y = by_sequence(suffix, s.B)}, c);
}

Status cancelled() {
    return Status::error(Code::aborted, "the pass was cancelled");
}

}  // namespace

Status body_forward(const FlowShape& s, const StageWeights& w, const View& shifted, const View& prefix, const View& g,
                    Context& c) {
    ArenaScope scope(*c.arena);
    const View body = c.arena->tensor(DType::f32, s.B * s.S(), s.C());
    NOEMA_TRY(lift(s, w, shifted, prefix, body, c));
    for (const BlockWeights& block : w.blocks) {
        if (c.stream.is_cancelled()) return cancelled();
        NOEMA_TRY(block_forward(s.block(s.S()), block, body, c));
    }
    NOEMA_TRY(take_suffix(s, body, g, c));
    return rms_norm({.x = s.m ? g : body, .weight = w.norm, .y = g, .epsilon = s.config.rms_norm_eps}, c);
}

Status body_forward_keeping(const FlowShape& s, const StageWeights& w, const View& prefix, const StageActivations& a,
                            Context& c) {
    NOEMA_TRY(lift(s, w, a.shifted, prefix, a.blocks[0].x, c));
    for (size_t i = 0; i < w.blocks.size(); ++i) {
        if (c.stream.is_cancelled()) return cancelled();
        const View& out = i + 1 < w.blocks.size() ? a.blocks[i + 1].x : a.last;
        NOEMA_TRY(block_forward_keeping(s.block(s.S()), w.blocks[i], a.blocks[i], out, c));
    }
    NOEMA_TRY(take_suffix(s, a.last, a.suffix, c));
    return rms_norm({.x = a.suffix, .weight = w.norm, .y = a.g, .inv_rms = a.inv_rms, .epsilon = s.config.rms_norm_eps},
                    c);
}

// --- the same lines from bottom to top -------------------------------------------------------------------------------

namespace {

Status lift_backward(const FlowShape& s, const StageWeights& w, const StageActivations& a, const StageGradients& g,
                     const View& prefix, const View& d_body, const BodyGradients& d, Context& c) {
    View d_rows = d_body;
    if (s.m) {
        // body = [lifted prefix, rows]
        d_rows = c.arena->tensor(DType::f32, s.rows(), s.C());
        const View d_lifted = c.arena->tensor(DType::f32, s.B * s.m, s.C());
        NOEMA_TRY(reorder({.x = part_of_body(s, d_body, s.m, s.N), .y = by_sequence(d_rows, s.B)}, c));
        NOEMA_TRY(reorder({.x = part_of_body(s, d_body, 0, s.m), .y = by_sequence(d_lifted, s.B)}, c));
        // lifted = prefix Wcᵀ
        NOEMA_TRY(linear_weight_gradient(d_lifted, prefix, g.context, Precision::f32, c));
        if (d.prefix) NOEMA_TRY(linear_input_gradient(w.context, d_lifted, d.prefix, true, Precision::f32, c));
    }
    // rows = shifted Wᵀ + b
    NOEMA_TRY(exact_linear_backward(a.shifted, d_rows, g.input, c));
    return linear_input_gradient(w.input.weight, d_rows, d.shifted, false, Precision::f32, c);
}

}  // namespace

Status body_backward(const FlowShape& s, const StageWeights& w, const StageActivations& a, const StageGradients& g,
                     const View& prefix, const BodyGradients& d, Context& c) {
    ArenaScope scope(*c.arena);
    const View d_body = c.arena->tensor(DType::f32, s.B * s.S(), s.C());

    // g = rms_norm(suffix)
    const View d_suffix = s.m ? c.arena->tensor(DType::f32, s.rows(), s.C()) : d_body;
    NOEMA_TRY(rms_norm_backward(
        {.x = a.suffix, .weight = w.norm, .inv_rms = a.inv_rms, .d_y = d.g, .d_x = d_suffix, .d_weight = g.norm}, c));

    // suffix = the body's rows after the prefix
    if (s.m) {
        NOEMA_TRY(c.clear(d_body));
        NOEMA_TRY(reorder({.x = by_sequence(d_suffix, s.B), .y = part_of_body(s, d_body, s.m, s.N)}, c));
    }
    for (size_t i = w.blocks.size(); i-- > 0;) {
        if (c.stream.is_cancelled()) return cancelled();
        NOEMA_TRY(block_backward(s.block(s.S()), w.blocks[i], a.blocks[i], g.blocks[i], d_body, c));
    }
    return lift_backward(s, w, a, g, prefix, d_body, d, c);
}

}  // namespace noema
