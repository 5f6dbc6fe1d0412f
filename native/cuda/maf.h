// One feature of maf_features.
#pragma once

#include "common/activations.h"

namespace noema::cuda {

struct MafWeights {
    float x, rising, falling, bias;
};

__device__ __forceinline__ MafWeights weights_of(const float* weight, const float* bias, int64_t feature) {
    const float* w = weight + 3 * feature;
    return {w[0], w[1], w[2], bias[feature]};
}

__device__ __forceinline__ float maf_inner(const MafWeights& w, float x, const Elus& e) {
    return fmaf(w.x, x, fmaf(w.rising, e.rising, fmaf(w.falling, e.falling, w.bias)));
}

/// gelu(inner).
__device__ __forceinline__ float maf_feature(const MafWeights& w, float x) {
    return gelu_erf(maf_inner(w, x, elus(x)));
}

}  // namespace noema::cuda
