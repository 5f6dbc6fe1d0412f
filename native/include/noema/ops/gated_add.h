// gated_add: y = x + gate[b] * f, the adaLN gate on a residual branch; row r belongs to sequence r / rows_per_sequence.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct GatedAdd {
    View x;     // [R,C]
    View f;     // [R,C]
    View gate;  // [B,C]
    View y;     // [R,C]; may be x
    int64_t rows_per_sequence = 1;
};

struct GatedAddBackward {
    View f;       // [R,C]
    View gate;    // [B,C]
    View d_y;     // [R,C]; also the gradient of x
    View d_f;     // [R,C] assigned
    View d_gate;  // [B,C] assigned, optional
    int64_t rows_per_sequence = 1;
};

}  // namespace noema
