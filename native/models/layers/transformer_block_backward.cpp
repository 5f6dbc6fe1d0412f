// transformer_block.cpp read from bottom to top; each paragraph names the forward line that it differentiates.
#include "models/layers/transformer_block.h"

namespace noema {

Status mlp_backward(const BlockPass& p, const View& d_x, Context& c) {
    const BlockShape& s = p.shape;
    const BlockWeights& w = p.weights;
    const BlockActivations& a = p.kept;
    const BlockGradients& g = p.gradients;
    ArenaScope scope(*c.arena);
    const DType t = d_x.dtype;
    const View n = c.arena->tensor(t, s.rows(), s.C), d_n = c.arena->tensor(t, s.rows(), s.C);
    const View inner = c.arena->tensor(t, s.rows(), s.F), d_gate = c.arena->tensor(t, s.rows(), s.F);
    const View d_up = c.arena->tensor(t, s.rows(), s.F);

    // x_out = x_cross + down(inner); inner is computed again rather than kept.
    if (g.down) {
        NOEMA_TRY(swiglu({.gate = a.gate, .up = a.up, .y = inner}, c));
        NOEMA_TRY(linear_weight_gradient(d_x, inner, g.down, s.precision, c));
    }
    const View d_inner = inner;
    NOEMA_TRY(linear_input_gradient(w.down, d_x, d_inner, false, s.precision, c));

    // inner = silu(gate) * up
    NOEMA_TRY(swiglu_backward({.gate = a.gate, .up = a.up, .d_y = d_inner, .d_gate = d_gate, .d_up = d_up}, c));

    // gate = Wg n, up = Wu n; n is computed again.
    if (g.gate || g.up) {
        NOEMA_TRY(rms_norm({.x = a.x_cross, .weight = w.mlp_norm, .y = n, .epsilon = s.epsilon}, c));
        NOEMA_TRY(linear_weight_gradient(d_gate, n, g.gate, s.precision, c));
        NOEMA_TRY(linear_weight_gradient(d_up, n, g.up, s.precision, c));
    }
    NOEMA_TRY(linear_input_gradient(w.gate, d_gate, d_n, false, s.precision, c));
    NOEMA_TRY(linear_input_gradient(w.up, d_up, d_n, true, s.precision, c));

    // n = rms_norm(x_cross); the residual path already holds d_x.
    return rms_norm_backward({.x = a.x_cross,
                              .weight = w.mlp_norm,
                              .inv_rms = a.inv_rms2,
                              .d_y = d_n,
                              .d_x = d_x,
                              .d_weight = g.mlp_norm,
                              .accumulate_x = true},
                             c);
}

namespace {

Status attention_part_backward(const BlockPass& p, const View& d_x, Context& c) {
    const BlockShape& s = p.shape;
    const BlockWeights& w = p.weights;
    const BlockActivations& a = p.kept;
    const BlockGradients& g = p.gradients;
    ArenaScope scope(*c.arena);
    const DType t = d_x.dtype;
    const View n = c.arena->tensor(t, s.rows(), s.C), d_n = c.arena->tensor(t, s.rows(), s.C);
    const View d_attention = c.arena->tensor(t, s.B, s.T, s.H, s.D), d_q = c.arena->tensor(t, s.B, s.T, s.H, s.D);
    const View d_k = c.arena->tensor(t, s.B, s.T, s.Hkv, s.D), d_v = c.arena->tensor(t, s.B, s.T, s.Hkv, s.D);

    // x_mid = x + o(attention)
    NOEMA_TRY(linear_weight_gradient(d_x, as_rows(a.attention), g.o, s.precision, c));
    NOEMA_TRY(linear_input_gradient(w.o, d_x, as_rows(d_attention), false, s.precision, c));

    // attention = softmax(scale q kᵀ) v; q and k were turned by rope
    NOEMA_TRY(attention_backward({.q = a.q,
                                  .k = a.k,
                                  .v = a.v,
                                  .out = a.attention,
                                  .lse = a.lse,
                                  .d_out = d_attention,
                                  .d_q = d_q,
                                  .d_k = d_k,
                                  .d_v = d_v,
                                  .mask = s.mask,
                                  .scale = attention_scale(s),
                                  .precision = s.precision},
                                 c));
    NOEMA_TRY(rope({.x = d_q, .y = d_q, .theta = s.rope_theta, .inverse = true}, c));
    NOEMA_TRY(rope({.x = d_k, .y = d_k, .theta = s.rope_theta, .inverse = true}, c));

    // q = Wq n + bq, k = Wk n + bk, v = Wv n + bv; n is computed again.
    if (g.q || g.k || g.v) NOEMA_TRY(rms_norm({.x = a.x, .weight = w.attention_norm, .y = n, .epsilon = s.epsilon}, c));
    NOEMA_TRY(biased_linear_gradients(as_rows(d_q), n, {g.q, g.q_bias}, s.precision, c));
    NOEMA_TRY(biased_linear_gradients(as_rows(d_k), n, {g.k, g.k_bias}, s.precision, c));
    NOEMA_TRY(biased_linear_gradients(as_rows(d_v), n, {g.v, g.v_bias}, s.precision, c));
    NOEMA_TRY(linear_input_gradient(w.q, as_rows(d_q), d_n, false, s.precision, c));
    NOEMA_TRY(linear_input_gradient(w.k, as_rows(d_k), d_n, true, s.precision, c));
    NOEMA_TRY(linear_input_gradient(w.v, as_rows(d_v), d_n, true, s.precision, c));

    // n = rms_norm(x)
    return rms_norm_backward({.x = a.x,
                              .weight = w.attention_norm,
                              .inv_rms = a.inv_rms1,
                              .d_y = d_n,
                              .d_x = d_x,
                              .d_weight = g.attention_norm,
                              .accumulate_x = true},
                             c);
}

}  // namespace

Status block_backward(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, const BlockGradients& g,
                      const View& d_x, Context& c) {
    const BlockPass pass{s, w, a, g};
    NOEMA_TRY(mlp_backward(pass, d_x, c));
    if (s.M > 0) NOEMA_TRY(cross_backward(pass, d_x, c));
    return attention_part_backward(pass, d_x, c);
}

}  // namespace noema
