// One scalar of affine, either way, given its clipped log-scale.
#pragma once

#include "device.h"

namespace noema::cuda {

template <class T>
__device__ __forceinline__ T affine_noise(T h, T log_scale, float shift) {
    return (h - shift) * exp(-log_scale);
}
template <class T>
__device__ __forceinline__ T affine_state(T u, T log_scale, float shift) {
    return fma(u, exp(log_scale), static_cast<T>(shift));
}

}  // namespace noema::cuda
