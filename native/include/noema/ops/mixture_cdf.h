// mixture_cdf: the one-dimensional mixture coupling (tarflowlm.md sections 3.1, 3.3, 3.4), scalar by scalar. With
// weights pi = softmax(logits), means m and scales s = exp(softclip(raw)), softclip(x) = 4 tanh(x / 4), of K components:
//
//   p(h) = sum_k pi_k N(h; m_k, s_k²)     F(h) = sum_k pi_k Phi((h - m_k) / s_k)     u = Phi^-1(F(h))
//   log_density[r] = sum_i log p(h[r,i])  log_det[r] = log_density[r] - sum_i log N(u[r,i]; 0, 1)
//
// Both tails, F and 1 - F, are summed; u comes from the smaller one, in logs where it is tiny.
//
// Backward: the implicit rule, never through a root finder. Takes the gradients of u, log_density and log_det, each optional
// (absent: zero).
//
// mixture_cdf_inverse: h with |Phi^-1(F(h)) - u| small: guarded Halley on the probit residual inside the components'
// quantiles (performance.md section 8.2). A row whose search does not converge, or whose parameters or u are not finite,
// is reported in `failed`, never silently wrong.
// States may be wide (f64), and the inverse searches in double always: where F climbs by e^-16 between two components, f32 has
// no u that leads back to what is there. `grid`: see grid.h.
// mixture_cdf_draw: a component by `uniform`, a value by `normal`: the same law as the inverse of base noise.
#pragma once

#include "noema/ops/grid.h"
#include "noema/tensor.h"

namespace noema {

struct MixtureCdf {
    View h;            // [R,c] f32 or f64
    View parameters;   // [R,c,3K], rows of 3K contiguous, any other strides: K logits, K means, K raw log-scales
    View u;            // [R,c] out, optional, of h's dtype
    View log_density;  // [R] out, optional
    View log_det;      // [R] out, optional
    double grid = 0;   // of u
};

struct MixtureCdfBackward {
    View h;              // [R,c]
    View parameters;     // [R,c,3K]
    View d_u;            // [R,c], optional
    View d_log_density;  // [R], optional
    View d_log_det;      // [R], optional
    View d_h;            // [R,c] assigned
    View d_parameters;   // [R,c,3K] assigned; may be `parameters` itself
};

struct MixtureCdfInverse {
    View u;            // [R,c] f32 or f64
    View parameters;   // [R,c,3K]
    View h;            // [R,c] out, of u's dtype; may be u
    View failed;       // [R] i32 out, optional: how many of the row's scalars did not converge
    View evaluations;  // [R] i32 out, optional: evaluations of F that the row took in all
    double grid = 0;   // of h
};

struct MixtureCdfDraw {
    View uniform;     // [R,c] in (0, 1)
    View normal;      // [R,c]
    View parameters;  // [R,c,3K]
    View h;           // [R,c] out; may be `normal`
};

}  // namespace noema
