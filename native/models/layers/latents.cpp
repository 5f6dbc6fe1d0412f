// The part of a block that reads latents, forward and backward.
#include "models/layers/transformer_block.h"

namespace noema {

namespace {

/// [B*M,C] as [B,M,H,D], or what else has C channels to a row.
View by_head(const BlockShape& s, const View& rows, int64_t count) {
    return as_shape(rows, {s.B, count, s.H, s.D});
}

}  // namespace

Status latent_keys(const BlockShape& s, const BlockWeights& w, const View& rows, const Latents& out, Context& c) {
    NOEMA_TRY(linear(w.cross.k, rows, as_rows(out.keys), {}, s.precision, c));
    return linear(w.cross.v, rows, as_rows(out.values), {}, s.precision, c);
}

Status block_cross(const BlockShape& s, const BlockWeights& w, const Latents& latents, const View& x, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(x.dtype, s.rows(), s.C), q = c.arena->tensor(x.dtype, s.rows(), s.C);
    NOEMA_TRY(rms_norm({.x = x, .weight = w.cross.norm, .y = n, .epsilon = s.epsilon}, c));
    NOEMA_TRY(linear(w.cross.q, n, q, {}, s.precision, c));
    NOEMA_TRY(cross_attention({.q = by_head(s, q, s.T),
                               .k = latents.keys,
                               .v = latents.values,
                               .out = by_head(s, n, s.T),
                               .scale = attention_scale(s),
                               .weights = latents.weights},
                              c));
    return linear(w.cross.o, n, x, x, s.precision, c);
}

Status keep_queries(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(a.x_mid.dtype, s.rows(), s.C);
    NOEMA_TRY(
        rms_norm({.x = a.x_mid, .weight = w.cross.norm, .y = n, .inv_rms = a.cross_inv_rms, .epsilon = s.epsilon}, c));
    return linear(w.cross.q, n, as_rows(a.cross_q), {}, s.precision, c);
}

Status keep_reading(const BlockShape& s, const BlockWeights& w, const BlockActivations& a, Context& c) {
    NOEMA_TRY(cross_attention({.q = a.cross_q,
                               .k = a.latents.keys,
                               .v = a.latents.values,
                               .out = a.cross_attention,
                               .scale = attention_scale(s),
                               .weights = a.latents.weights},
                              c));
    return linear(w.cross.o, as_rows(a.cross_attention), a.x_cross, a.x_mid, s.precision, c);
}

// --- the same lines from bottom to top -------------------------------------------------------------------------------

Status reading_backward(const BlockPass& p, const View& d_x, const View& d_q, Context& c) {
    const BlockShape& s = p.shape;
    ArenaScope scope(*c.arena);
    const View d_attention = c.arena->tensor(d_x.dtype, s.B, s.T, s.H, s.D);

    // x_cross = x_mid + co(cross_attention)
    NOEMA_TRY(linear_weight_gradient(d_x, as_rows(p.kept.cross_attention), p.gradients.cross.o, s.precision, c));
    NOEMA_TRY(linear_input_gradient(p.weights.cross.o, d_x, as_rows(d_attention), false, s.precision, c));

    // cross_attention = softmax(scale cross_q keysᵀ) values
    return cross_attention_backward({.q = p.kept.cross_q,
                                     .k = p.kept.latents.keys,
                                     .v = p.kept.latents.values,
                                     .d_out = d_attention,
                                     .d_q = d_q,
                                     .d_k = p.gradients.latents.keys,
                                     .d_v = p.gradients.latents.values,
                                     .scale = attention_scale(s)},
                                    c);
}

Status cross_backward(const BlockPass& p, const View& d_x, Context& c) {
    const BlockShape& s = p.shape;
    const BlockWeights& w = p.weights;
    const BlockActivations& a = p.kept;
    ArenaScope scope(*c.arena);
    const View d_q = c.arena->tensor(d_x.dtype, s.B, s.T, s.H, s.D), n = c.arena->tensor(d_x.dtype, s.rows(), s.C);
    NOEMA_TRY(reading_backward(p, d_x, d_q, c));

    // cross_q = cq n; n is computed again, then its room is its gradient's.
    if (p.gradients.cross.q) {
        NOEMA_TRY(rms_norm({.x = a.x_mid, .weight = w.cross.norm, .y = n, .epsilon = s.epsilon}, c));
        NOEMA_TRY(linear_weight_gradient(as_rows(d_q), n, p.gradients.cross.q, s.precision, c));
    }
    const View d_n = n;
    NOEMA_TRY(linear_input_gradient(w.cross.q, as_rows(d_q), d_n, false, s.precision, c));

    // n = rms_norm(x_mid); the residual path already holds d_x.
    return rms_norm_backward({.x = a.x_mid,
                              .weight = w.cross.norm,
                              .inv_rms = a.cross_inv_rms,
                              .d_y = d_n,
                              .d_x = d_x,
                              .d_weight = p.gradients.cross.norm,
                              .accumulate_x = true},
                             c);
}

Status latent_keys_backward(const BlockShape& s, const BlockWeights& w, const BlockGradients& g, const View& rows,
                            const View& d_rows, Context& c) {
    const View d_keys = as_rows(g.latents.keys), d_values = as_rows(g.latents.values);

    // keys = ck rows, values = cv rows
    NOEMA_TRY(linear_weight_gradient(d_keys, rows, g.cross.k, s.precision, c));
    NOEMA_TRY(linear_weight_gradient(d_values, rows, g.cross.v, s.precision, c));
    NOEMA_TRY(linear_input_gradient(w.cross.k, d_keys, d_rows, false, s.precision, c));
    return linear_input_gradient(w.cross.v, d_values, d_rows, true, s.precision, c);
}

}  // namespace noema
