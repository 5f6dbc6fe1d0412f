// Where one chunk of rows of layer_norm_backward adds up: a row of C for each parameter, or null.
#pragma once

namespace noema::cpu {

struct LayerNormSums {
    float *weight, *bias, *scale, *shift;
};

}  // namespace noema::cpu
