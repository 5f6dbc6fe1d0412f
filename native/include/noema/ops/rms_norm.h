// rms_norm: y = x / sqrt(mean(x²) + epsilon) * weight, per row. Statistics in f32 or wider.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct RmsNorm {
    View x;        // [R,C]
    View weight;   // [C]
    View y;        // [R,C]; may be x
    View inv_rms;  // [R] f32, optional: what backward needs saved
    float epsilon = 1e-5f;
};

struct RmsNormBackward {
    View x;         // [R,C]
    View weight;    // [C]
    View inv_rms;   // [R] saved by forward
    View d_y;       // [R,C]
    View d_x;       // [R,C] assigned, or += with accumulate_x; may not be d_y
    View d_weight;  // [C] +=, optional
    bool accumulate_x = false;
};

}  // namespace noema
