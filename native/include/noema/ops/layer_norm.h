// layer_norm: n = (x - mean) / sqrt(variance + epsilon) per row;  y = n * weight + bias;
// with adaLN: y = y * (1 + scale[b]) + shift[b], where row r belongs to sequence b = r / rows_per_sequence (DiT).
#pragma once

#include "noema/tensor.h"

namespace noema {

struct LayerNorm {
    View x;        // [R,C]
    View weight;   // [C], optional
    View bias;     // [C], optional
    View scale;    // [B,C], optional, together with shift
    View shift;    // [B,C]
    View y;        // [R,C]; may be x
    View mean;     // [R] f32, optional, together with inv_std: what backward needs saved
    View inv_std;  // [R] f32
    int64_t rows_per_sequence = 1;
    float epsilon = 1e-5f;
};

struct LayerNormBackward {
    View x;         // [R,C]
    View weight;    // [C], as in forward
    View bias;      // [C], as in forward
    View scale;     // [B,C], as in forward
    View mean;      // [R]
    View inv_std;   // [R]
    View d_y;       // [R,C]
    View d_x;       // [R,C] assigned, or += with accumulate_x
    View d_weight;  // [C] +=, optional
    View d_bias;    // [C] +=, optional
    View d_scale;   // [B,C] assigned, optional
    View d_shift;   // [B,C] assigned, optional
    int64_t rows_per_sequence = 1;
    bool accumulate_x = false;
};

}  // namespace noema
