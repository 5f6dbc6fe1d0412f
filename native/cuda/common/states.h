// States of flows: f32, or f64 where they are wide.
#pragma once

#include "device.h"
#include "noema/ops/grid.h"
#include "noema/tensor.h"

namespace noema::cuda {

/// noema::on_grid, for kernels.
__device__ __forceinline__ double on_grid(double x, double grid) {
    return grid > 0 ? nearbyint(x / grid) * grid : x;
}

/// A matrix of states, for kernels that compute in double whatever the states are.
struct States {
    void* data = nullptr;
    int64_t stride = 0;
    bool wide = false;

    States() = default;
    explicit States(const View& v) : data(v.data), stride(v ? v.stride[0] : 0), wide(v.dtype == DType::f64) {}

    __device__ __forceinline__ double at(int64_t r, int64_t i) const {
        const int64_t k = r * stride + i;
        return wide ? static_cast<const double*>(data)[k] : static_cast<double>(static_cast<const float*>(data)[k]);
    }
    /// x as put() leaves it.
    __device__ __forceinline__ double stored(double x) const {
        return wide ? x : static_cast<double>(static_cast<float>(x));
    }
    __device__ __forceinline__ void put(int64_t r, int64_t i, double x) const {
        const int64_t k = r * stride + i;
        if (wide)
            static_cast<double*>(data)[k] = x;
        else
            static_cast<float*>(data)[k] = static_cast<float>(x);
    }
};

}  // namespace noema::cuda
