// draw: picks one of K weighted candidates per row: argmax_j weight[r,j] / (1e-10 - log(u_j + 1e-10))^temperature, the
// Gumbel trick in the form of MDLM's released code (weights need not sum to one). Ties go to the lowest j.
// u comes from `uniforms` when given, else from rng_uniform(seeds[r], RngStream::remask, step, positions[r], j).
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Draw {
    View weight;     // [R,K] f32, >= 0
    View uniforms;   // [R,K] f32 in [0, 1), optional
    View seeds;      // [R] i64, when uniforms is absent
    View positions;  // [R] i32, when uniforms is absent
    View index;      // [R] i32 out
    int64_t step = 0;
    float temperature = 1.0f;
};

}  // namespace noema
