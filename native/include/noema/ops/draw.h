// draw: picks one of K weighted candidates per row: argmax_j w[r,j] / (1e-10 - log(u_j + 1e-10))^temperature, the
// Gumbel trick in the form of MDLM's released code (weights need not sum to one). Ties go to the lowest j.
// u comes from `uniforms` when given, else from rng_uniform(seeds[r], RngStream::remask, step, positions[r], j).
// w[r,j] = scale * weight[r,j], but in the last column `last` where that is given (>= 0): "none of them" in the released
// code.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Draw {
    View weight;     // [R,K] f32, >= 0
    View uniforms;   // [R,K] f32 in [0, 1), optional
    View seeds;      // [R] i64, when uniforms is absent
    View positions;  // [R] i32, when uniforms is absent
    View steps;      // [R] i32 (bits of a u32), optional: each row's own step, instead of `step`
    View index;      // [R] i32 out
    int64_t step = 0;
    float temperature = 1.0f;
    float scale = 1.0f;
    float last = -1.0f;
};

}  // namespace noema
