// gelu: erf form x Phi(x), or the tanh form 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))).
#pragma once

#include "noema/ops/matmul.h"
#include "noema/tensor.h"

namespace noema {

struct Gelu {
    View x;  // [R,F]
    View y;  // [R,F]; may be x
    Activation form = Activation::gelu_erf;
};

struct GeluBackward {
    View x;    // [R,F]
    View d_y;  // [R,F]
    View d_x;  // [R,F] assigned; may be d_y
    Activation form = Activation::gelu_erf;
};

}  // namespace noema
