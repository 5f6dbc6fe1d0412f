// Activations and their slopes, one definition for the ops gelu and swiglu and for whoever fuses them. All are built on exp of a
// non-positive number, so nothing overflows and nothing cancels; NaN stays NaN. Errors as those of the cpu backend's definitions,
// in units of the result's last place: silu 3, gelu_erf 6, gelu_tanh 4 + |2u| for negative x; slopes within 4e-7.
#pragma once

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

/// min(|x|, limit), NaN for NaN (fminf would swallow it).
__device__ __forceinline__ float bounded(float x, float limit) {
    const float magnitude = fabsf(x);
    return magnitude > limit ? limit : magnitude;
}

/// The normal distribution at x: probability of less, and density.
struct Normal {
    float below, density;
};

// P(-|x|) = exp(-x²/2) t p(t) with t = 1 / (1 + 0.35 |x|): one polynomial serves every x (fitted to 3.2e-8 relative on
// [0, 13.5], where P reaches the end of f32). exp gets x² in two parts: its argument's rounding alone would cost
// |x|²/2 = 87 ulp in the tail.
__device__ __forceinline__ Normal normal(float x) {
    const float a = bounded(x, 14.0f), square = a * a, low = fmaf(a, a, -square);
    const float e = expf(-0.5f * square), bell = fmaf(-0.5f * e, low, e);
    const float t = 1.0f / fmaf(a, 0.35f, 1.0f);
    float p = -0.029125964f;
    p = fmaf(p, t, 0.1438726931f);
    p = fmaf(p, t, -0.2555054724f);
    p = fmaf(p, t, 0.1589302868f);
    p = fmaf(p, t, -0.0229377784f);
    p = fmaf(p, t, 0.1054331884f);
    p = fmaf(p, t, 0.1198523690f);
    p = fmaf(p, t, 0.1398591504f);
    p = fmaf(p, t, 0.1396215707f);
    const float tail = p * t * bell;
    return {x < 0 ? tail : 1.0f - tail, bell * 0.39894228040f};
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

}  // namespace noema::cuda
