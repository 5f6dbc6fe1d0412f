// Adam's arithmetic, for the ops that step by it.
#pragma once

#include <cmath>

#include "common/quads.h"

namespace noema::cuda {

struct AdamFactors {
    float beta1, beta2, epsilon;
    float unbias_m, unbias_v;  // 1 / (1 - beta^step)
};

/// 1 / (1 - beta^step): in double, rounded once.
inline float unbias(float beta, int64_t step) {
    return static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step))));
}

__device__ __forceinline__ float blend(float old, float keep, float fresh) {
    return fmaf(old, keep, fresh * (1.0f - keep));
}

/// Takes the gradients of the quad at i into its moments; the steps' directions, of length about 1.
template <bool kWhole>
__device__ __forceinline__ Quad adam_direction(const AdamFactors& f, const Quad& gradient, float* m_row, float* v_row,
                                               int64_t i, int64_t n) {
    const auto mean = [&](float old, float g) { return blend(old, f.beta1, g); };
    const auto square = [&](float old, float g) { return blend(old, f.beta2, g * g); };
    const Quad m = map(mean, load_quad<kWhole>(m_row, i, n), gradient);
    const Quad v = map(square, load_quad<kWhole>(v_row, i, n), gradient);
    store_quad<kWhole>(m_row, i, n, m);
    store_quad<kWhole>(v_row, i, n, v);
    return map([&](float a, float b) { return a * f.unbias_m / (sqrtf(b * f.unbias_v) + f.epsilon); }, m, v);
}

}  // namespace noema::cuda
