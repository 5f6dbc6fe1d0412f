// Sums and maxima over a warp and over a block, in a fixed order: the same bits every time.
#pragma once

#include "device.h"

namespace noema::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

struct Sum {
    template <class T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a + b;
    }
};
struct Max {
    template <class T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a < b ? b : a;
    }
};

/// Every lane gets the whole warp's value. width: lanes that belong together, a power of two.
template <class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine, int width = 32) {
    for (int bits = width / 2; bits > 0; bits /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, bits));
    return value;
}

/// Every thread gets the whole block's value. `scratch` has room for one T per warp; a barrier stands at both ends, so that
/// it may be used again at once. The block's threads are a multiple of 32, at most 1024.
template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T value, Combine combine, Shared<T> scratch) {
    const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
    value = warp_reduce(value, combine);
    if (warps == 1) return value;
    if (threadIdx.x % 32 == 0) scratch[warp] = value;
    __syncthreads();
    T all = scratch[0];
    for (int i = 1; i < warps; ++i) all = combine(all, static_cast<T>(scratch[i]));
    __syncthreads();
    return all;
}

}  // namespace noema::cuda
