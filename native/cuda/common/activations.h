// Activations and their slopes, one definition for the ops gelu and swiglu and for whoever fuses them. All are built on exp of a
// non-positive number, so nothing overflows and nothing cancels; NaN stays NaN. Errors as those of the cpu backend's definitions,
// in units of the result's last place: silu 3, gelu_erf 6, gelu_tanh 4 + |2u| for negative x; slopes within 4e-7.
#pragma once

#include "common/normal.h"
#include "device.h"

namespace noema::cuda {

/// exp(-|x|): CUDA's expf, 2 ulp, not the special function unit's alone, whose error grows with x.
__device__ __forceinline__ float exp_falling(float x) {
    return expf(-fabsf(x));
}

/// sigmoid(x) and sigmoid(-x): 1 - sigmoid(x) would lose all digits for large x.
struct Logistic {
    float rising, falling;
};
__device__ __forceinline__ Logistic logistic(float x) {
    const float e = exp_falling(x), large = 1.0f / (1.0f + e), small = e * large;
    return x < 0 ? Logistic{small, large} : Logistic{large, small};
}

/// x sigmoid(v).
__device__ __forceinline__ float times_sigmoid(float x, float v) {
    const float e = exp_falling(v);
    return (v < 0 ? x * e : x) / (1.0f + e);
}

/// x / (1 + exp(-x)).
__device__ __forceinline__ float silu(float x) {
    return times_sigmoid(x, x);
}
/// s (1 + x (1 - s)), s = sigmoid(x), given logistic(x).
__device__ __forceinline__ float silu_slope(float x, Logistic s) {
    return s.rising * fmaf(x, s.falling, 1.0f);
}

/// x P(x), P the normal distribution.
__device__ __forceinline__ float gelu_erf(float x) {
    return x * normal(x).below;
}
/// P(x) + x density(x).
__device__ __forceinline__ float gelu_erf_slope(float x) {
    const Normal n = normal(x);
    return fmaf(copysignf(bounded(x, 14.0f), x), n.density, n.below);
}

// 0.5 (1 + tanh(u)) = sigmoid(2u), which does not cancel for negative u. 2u = x (k1 + k3 x²), k1 = 2 sqrt(2/pi),
// k3 = 0.044715 k1.
constexpr float kTanhLinear = 1.5957691216f, kTanhCubic = 0.0713548163f;

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))).
__device__ __forceinline__ float gelu_tanh(float x) {
    return times_sigmoid(x, x * fmaf(x * x, kTanhCubic, kTanhLinear));
}
/// s + x s (1 - s) (2u)', s = sigmoid(2u).
__device__ __forceinline__ float gelu_tanh_slope(float x) {
    const float near = copysignf(bounded(x, 20.0f), x);  // the slope is 0 or 1 from 11 on; x² stays finite
    const float square = near * near;
    const Logistic s = logistic(near * fmaf(square, kTanhCubic, kTanhLinear));
    return fmaf(near * s.rising, s.falling * fmaf(square, 3 * kTanhCubic, kTanhLinear), s.rising);
}

/// exp(-|x|) and exp(-|x|) - 1, 3 ulp each.
struct Falling {
    float exp, less_one;
};

// With x = n log(2) + r and q = exp(r) - 1 they are p + p q and (p - 1) + p q, p = 2^n: near 0, where exp is nearly 1, n is 0 and
// the second is q itself. (expf would need a branch for the second.)
__device__ __forceinline__ Falling falling(float x) {
    constexpr float c[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                           4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    const float a = -bounded(x, 87.9f), n = rintf(a * 1.44269504088896341f);
    const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, a));
    const float q = fmaf(r * r, polynomial(r, c), r);
    const float p = __uint_as_float(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
    return {fmaf(q, p, p), fmaf(q, p, p - 1.0f)};
}

/// elu(x) = x for x > 0, else exp(x) - 1, and elu(-x), of one exponential; 3 ulp. The slopes are derivatives by x.
struct Elus {
    float rising, falling, rising_slope, falling_slope;
};
__device__ __forceinline__ Elus elus(float x) {
    const Falling f = falling(x);
    return x > 0 ? Elus{x, f.less_one, 1.0f, -f.exp} : Elus{f.less_one, -x, f.exp, -1.0f};
}

}  // namespace noema::cuda
