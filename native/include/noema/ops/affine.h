// affine: the affine coupling (tarflowlm.md section 2.2, checkpoints.md), element by element:
//
//   u = (h - b) exp(-a'),  a' = softclip(a) = 4 tanh(a / 4)
//   log_det[r] = -sum_i a'[r,i]          log_density[r] = log_det[r] + sum_i log N(u[r,i]; 0, 1)
//
// affine_inverse: h = u exp(a') + b.
// States may be wide (f64): then all of it is computed in double. `grid`: see grid.h.
// Backward takes the gradients of u, log_density and log_det, each optional (absent: zero).
#pragma once

#include "noema/ops/grid.h"
#include "noema/tensor.h"

namespace noema {

struct Affine {
    View h;            // [R,c] f32 or f64
    View parameters;   // [R,2c]: c raw log-scales a, then c shifts b
    View u;            // [R,c] out, optional, of h's dtype
    View log_density;  // [R] out, optional
    View log_det;      // [R] out, optional
    double grid = 0;   // of u
};

struct AffineBackward {
    View h;              // [R,c]
    View parameters;     // [R,2c]
    View d_u;            // [R,c], optional
    View d_log_density;  // [R], optional
    View d_log_det;      // [R], optional
    View d_h;            // [R,c] assigned
    View d_parameters;   // [R,2c] assigned
};

struct AffineInverse {
    View u;           // [R,c] f32 or f64
    View parameters;  // [R,2c]
    View h;           // [R,c] out, of u's dtype; may be u
    double grid = 0;  // of h
};

}  // namespace noema
