// swiglu: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Swiglu {
    View gate;  // [R,F]
    View up;    // [R,F]
    View y;     // [R,F]; may be gate or up
};

struct SwigluBackward {
    View gate;    // [R,F]
    View up;      // [R,F]
    View d_y;     // [R,F]
    View d_gate;  // [R,F] assigned; may be d_y
    View d_up;    // [R,F] assigned
};

}  // namespace noema
