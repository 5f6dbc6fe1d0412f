// rope: rotary position embedding of every head of x, in place allowed. For channel pair i < D/2 at position p the
// angle is a = p * theta^(-2i/D), computed in double and rounded once.
//   half_split:     (x_i, x_{i+D/2})   -> (x_i cos a - x_{i+D/2} sin a, x_{i+D/2} cos a + x_i sin a)
//   adjacent_pairs: (x_{2i}, x_{2i+1}) likewise
// `inverse` turns by -a: the gradient of rope, or its undoing.
#pragma once

#include "noema/tensor.h"

namespace noema {

enum class RopeLayout : uint8_t { half_split, adjacent_pairs };

struct Rope {
    View x;          // [B,T,H,D], D even and contiguous, any other strides
    View y;          // [B,T,H,D]; may be x
    View positions;  // [B,T] i32, optional; else position_offset + t
    int64_t position_offset = 0;
    double theta = 10000.0;
    RopeLayout layout = RopeLayout::half_split;
    bool inverse = false;
};

}  // namespace noema
