// cast: copies between f32, bf16, f16 and f64, rounding to nearest even; NaN stays NaN.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Cast {
    View x;  // [R,C]
    View y;  // [R,C]
};

}  // namespace noema
