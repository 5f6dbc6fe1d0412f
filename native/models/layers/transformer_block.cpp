#include "models/layers/transformer_block.h"

namespace noema {

namespace {

Status rotate(const BlockShape& s, const View& x, bool inverse, Context& c) {
    return rope({.x = x, .y = x, .theta = s.rope_theta, .inverse = inverse}, c);
}

Status project_qkv(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, const View& n1, Context& c) {
    NOEMA_TRY(biased_linear({w.q, w.q_bias}, n1, as_rows(a.q), s.precision, c));
    NOEMA_TRY(biased_linear({w.k, w.k_bias}, n1, as_rows(a.k), s.precision, c));
    NOEMA_TRY(biased_linear({w.v, w.v_bias}, n1, as_rows(a.v), s.precision, c));
    NOEMA_TRY(rotate(s, a.q, false, c));
    return rotate(s, a.k, false, c);
}

}  // namespace

BlockActivations transient_activations(const BlockShape& s, const View& x, Arena& arena) {
    BlockActivations a;
    a.x = a.x_mid = x;
    a.q = arena.tensor(x.dtype, s.B, s.T, s.H, s.D);
    a.attention = arena.tensor(x.dtype, s.B, s.T, s.H, s.D);
    a.k = arena.tensor(x.dtype, s.B, s.T, s.Hkv, s.D);
    a.v = arena.tensor(x.dtype, s.B, s.T, s.Hkv, s.D);
    return a;
}

Status keep_attention(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, Context& c) {
    ArenaScope scope(*c.arena);
    const View n1 = c.arena->tensor(a.x.dtype, s.rows(), s.C);
    NOEMA_TRY(
        rms_norm({.x = a.x, .weight = w.attention_norm, .y = n1, .inv_rms = a.inv_rms1, .epsilon = s.epsilon}, c));
    NOEMA_TRY(project_qkv(s, w, a, n1, c));
    NOEMA_TRY(attention({.q = a.q,
                         .k = a.k,
                         .v = a.v,
                         .out = a.attention,
                         .lse = a.lse,
                         .mask = s.mask,
                         .scale = attention_scale(s),
                         .precision = s.precision},
                        c));
    return linear(w.o, as_rows(a.attention), a.x_mid, a.x, s.precision, c);
}

BlockActivations keep_activations(const BlockShape& s, Arena& arena) {
    constexpr DType t = DType::f32;
    BlockActivations a;
    a.x = arena.tensor(t, s.rows(), s.C);
    a.inv_rms1 = arena.tensor(t, s.rows());
    a.q = arena.tensor(t, s.B, s.T, s.H, s.D);
    a.k = arena.tensor(t, s.B, s.T, s.Hkv, s.D);
    a.v = arena.tensor(t, s.B, s.T, s.Hkv, s.D);
    a.attention = arena.tensor(t, s.B, s.T, s.H, s.D);
    a.lse = arena.tensor(t, s.B, s.H, s.T);
    a.x_mid = a.x_cross = arena.tensor(t, s.rows(), s.C);
    if (s.M > 0) {
        a.cross_inv_rms = arena.tensor(t, s.rows());
        a.cross_q = arena.tensor(t, s.B, s.T, s.H, s.D);
        a.cross_attention = arena.tensor(t, s.B, s.T, s.H, s.D);
        a.x_cross = arena.tensor(t, s.rows(), s.C);
    }
    a.inv_rms2 = arena.tensor(t, s.rows());
    a.gate = arena.tensor(t, s.rows(), s.F);
    a.up = arena.tensor(t, s.rows(), s.F);
    return a;
}

Status block_forward(const BlockShape& s, const BlockWeights& w, const View& x, Context& c, const Latents& latents) {
    {
        ArenaScope scope(*c.arena);
        NOEMA_TRY(keep_attention(s, w, transient_activations(s, x, *c.arena), c));
    }
    if (latents.keys) NOEMA_TRY(block_cross(s, w, latents, x, c));
    return block_mlp(s, w, x, c);
}

Status block_mlp(const BlockShape& s, const BlockWeights& w, const View& x, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(x.dtype, s.rows(), s.C);
    const View gate = c.arena->tensor(x.dtype, s.rows(), s.F);
    const View inner = c.arena->tensor(x.dtype, s.rows(), s.F);
    NOEMA_TRY(rms_norm({.x = x, .weight = w.mlp_norm, .y = n, .epsilon = s.epsilon}, c));
    NOEMA_TRY(linear(w.gate, n, gate, {}, s.precision, c));
    Matmul up = weight_product(w.up, n, inner, s.precision);
    up.gate = gate;
    NOEMA_TRY(matmul(up, c));
    return linear(w.down, inner, x, x, s.precision, c);
}

Status keep_mlp(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, const View& x_out, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(a.x.dtype, s.rows(), s.C);
    const View inner = c.arena->tensor(a.x.dtype, s.rows(), s.F);
    NOEMA_TRY(rms_norm({.x = a.x_cross, .weight = w.mlp_norm, .y = n, .inv_rms = a.inv_rms2, .epsilon = s.epsilon}, c));
    NOEMA_TRY(linear(w.gate, n, a.gate, {}, s.precision, c));
    NOEMA_TRY(linear(w.up, n, a.up, {}, s.precision, c));
    NOEMA_TRY(swiglu({.gate = a.gate, .up = a.up, .y = inner}, c));
    return linear(w.down, inner, x_out, a.x_cross, s.precision, c);
}

Status block_forward_keeping(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, const View& x_out,
                             Context& c) {
    NOEMA_TRY(keep_attention(s, w, a, c));
    if (s.M > 0) {
        NOEMA_TRY(keep_queries(s, w, a, c));
        NOEMA_TRY(keep_reading(s, w, a, c));
    }
    return keep_mlp(s, w, a, x_out, c);
}

}  // namespace noema
