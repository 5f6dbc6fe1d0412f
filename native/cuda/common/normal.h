// The normal distribution, the soft clip of log-scales and what the mixture couplings build on them: the cpu backend's definitions
// (polynomials and all), with CUDA's expf and logf. Errors as there, in units of the result's last place. NaN stays NaN. In double they
// are right to some 1e-15.
#pragma once

#include "device.h"

namespace noema::cuda {

/// c[0] x^(n-1) + ... + c[n-1].
template <class Real, int n>
__device__ __forceinline__ Real polynomial(Real x, const Real (&c)[n]) {
    Real y = c[0];
#pragma unroll
    for (int i = 1; i < n; ++i) y = fma(y, x, c[i]);
    return y;
}

/// min(|x|, limit), NaN for NaN (fmin would swallow it).
template <class Real>
__device__ __forceinline__ Real bounded(Real x, Real limit) {
    const Real magnitude = fabs(x);
    return magnitude > limit ? limit : magnitude;
}

/// 1 / x for x from 1 to 1e30, to a rounding: without the paths that division keeps for other numbers.
__device__ __forceinline__ double reciprocal(double x) {
    double y = 1.0f / static_cast<float>(x);
    y = fma(y, fma(-x, y, 1.0), y);
    return fma(y, fma(-x, y, 1.0), y);
}

/// P(-a) / exp(-a²/2) for a >= 0, P the normal distribution: sqrt(2/pi) / 2 of Mills' ratio, between 1/2 and 0.4 / a. It is
/// t p(2 t - 1) with t = 1 / (1 + 0.45 a); one polynomial, fitted to 2.3e-8 relative, serves every a up to infinity. From
/// -1 to 1 its terms shrink, and so do their roundings.
__device__ __forceinline__ float tail_factor(float a) {
    constexpr float p[] = {-1.208128833e-05f, -3.704727351e-05f, 0.000119316639f, 0.0001182263732f,
                           -0.0006456614356f, 0.0002620201267f,  0.002683704719f, -0.004329042975f,
                           -0.0132086724f,    0.03346063942f,    0.1713013798f,   0.3102872074f};
    const float t = 1.0f / fmaf(a, 0.45f, 1.0f);
    return polynomial(fmaf(2.0f, t, -1.0f), p) * t;
}
/// The same with t = 1 / (1 + a / 4) and a polynomial in 1 - 2 t, from -1 to 1: fitted to 1e-17, 7e-16 with its own roundings.
__device__ __forceinline__ double tail_factor(double a) {
    constexpr double p[] = {
        -4.221644241696684e-10,  -3.19308785823943e-10,   4.01684673933235e-09,   4.892402234993512e-09,
        -1.9695900856734096e-08, -4.055790802133918e-08,  6.61834320494967e-08,   2.5674601753579823e-07,
        -1.5623877693912945e-07, -1.480723444385482e-06,  1.7865053828168654e-07, 8.78640058976113e-06,
        -4.769190076797745e-07,  -5.7773784446822336e-05, 3.3336052290036945e-05, 0.0004077046213683964,
        -0.0008699230891628756,  -0.0018850472422229046,  0.01509914372259023,    -0.04663046448989468,
        0.09678435018555664,     -0.15197416049297324,    0.18882128260393785};
    const double t = reciprocal(fma(a, 0.25, 1.0));
    return polynomial(fma(-2.0, t, 1.0), p) * t;
}

/// Mills' ratio P(-a) / density(a) for a >= 0.
__device__ __forceinline__ float mills_ratio(float a) {
    return tail_factor(a) * 2.506628275f;
}

/// The normal distribution at x: probability of less and of more, and density; 5 ulp each while the density is above 1e-37.
struct Normal {
    float below, above, density;
};

/// How far out exp(-a²/2) is a normal number.
template <class Real>
constexpr Real kBellEnd = 14;
template <>
constexpr double kBellEnd<double> = 37;

/// exp(-a²/2) for a in [0, kBellEnd]. exp gets a² in two parts: its argument's rounding alone would cost a²/2 = 87 ulp in the tail.
template <class Real>
__device__ __forceinline__ Real bell(Real a) {
    const Real square = a * a, low = fma(a, a, -square), e = exp(Real(-0.5) * square);
    return fma(Real(-0.5) * e, low, e);
}

__device__ __forceinline__ Normal normal(float x) {
    const float a = bounded(x, kBellEnd<float>), e = bell(a), tail = tail_factor(a) * e, rest = 1.0f - tail;
    return {x < 0 ? tail : rest, x < 0 ? rest : tail, e * 0.39894228040f};
}

// The quantile by w = -log(4 lower upper), as Giles has it for the inverse of erf: difference * polynomial(w) up to w = 5 (|u| = 2.9),
// beyond that sqrt(w) * polynomial(1 / sqrt(w)), which is nearly sqrt(2 w). Fitted to 6e-9 and 6.6e-8 relative.
__device__ __forceinline__ float central_quantile(float w, float difference) {
    constexpr float p[] = {-1.243237602e-8f, 3.125843477e-7f,  -2.795138471e-6f, 5.633149158e-6f, 6.302473048e-5f,
                           -1.802862826e-4f, -3.301193239e-3f, 1.633226313e-2f,  0.3281171024f,   1.253314137f};
    return difference * polynomial(w, p);
}
__device__ __forceinline__ float outer_quantile(float w) {
    constexpr float p[] = {8.735611916f, -20.69783401f, 20.57755852f,    -12.31941223f,
                           5.517150402f, -1.586308002f, -0.04720239341f, 1.414855361f};
    const float root = sqrtf(w);
    return root * polynomial(1.0f / root, p);
}
// The same for w from 86 to 3e5, to 1.1e-7; beyond that to 2e-6.
__device__ __forceinline__ float far_quantile(float w) {
    constexpr float p[] = {23814488.f,    -12702834.f,  2900616.25f,   -372159.4062f,    29779.37109f,
                           -1589.520874f, 64.99983978f, -3.365293264f, -0.003498511622f, 1.414216399f};
    const float root = sqrtf(w);
    return root * polynomial(1.0f / root, p);
}

/// u with P(u) = lower, 1 - P(u) = upper: 5 ulp or 5e-8, what is more (near 0 the pair rounds by as much). Both are
/// normal positive numbers whose sum is 1 (but for rounding); what is smaller decides, so nothing is lost near 1.
__device__ __forceinline__ float quantile(float lower, float upper) {
    const float difference = lower - upper, w = -logf(4.0f * lower * upper);
    if (w >= 5.0f) return copysignf(outer_quantile(w), difference);
    return central_quantile(w, difference);
}

/// The same of logarithms, however small: quantile(exp(log_lower), exp(log_upper)), 5 ulp or 2e-7.
__device__ __forceinline__ float quantile_of_log(float log_lower, float log_upper) {
    const float w = -1.386294361f - (log_lower + log_upper);
    const float difference = expf(log_lower) - expf(log_upper);
    if (w > 86.0f) return copysignf(far_quantile(w), difference);
    if (w >= 5.0f) return copysignf(outer_quantile(w), difference);
    return central_quantile(w, difference);
}

/// A quantile in double, and Mills' ratio at it.
struct Quantile {
    double u, mills;
};

/// u with P(u) = lower exp(lower_exponent), 1 - P(u) = upper exp(upper_exponent). The f32 quantile, and one step of third order towards
/// the smaller tail. The step starts from a float, so neighbouring tails start from the same one, and differences between their
/// quantiles are right to their tails' last place.
__device__ __forceinline__ Quantile quantile(double lower, double upper, double lower_exponent, double upper_exponent) {
    const double log_lower = log(lower) + lower_exponent, log_upper = log(upper) + upper_exponent;
    const bool below = log_lower <= log_upper;
    const double tail = below ? lower : upper, exponent = below ? lower_exponent : upper_exponent;
    const double a = fabsf(quantile_of_log(static_cast<float>(log_lower), static_cast<float>(log_upper)));
    const double factor = tail_factor(a), mills = factor * 2.5066282746310002, fall = fma(a, -0.5 * a, -exponent);
    // log(P(-a) / tail), through the quotient where that cannot leave the numbers.
    const double excess = exponent == 0 ? log1p(fma(factor, exp(fall), -tail) / tail) : log(factor / tail) + fall;
    const double newton = excess * mills;
    // (1 / mills - a) newton, which is newton / a where the difference cancels.
    const double bend = a > 1e3 ? newton / a : excess - a * newton;
    const double step = newton * fma(-0.5, bend, 1.0), u = a + step;
    return {below ? -u : u, fma(step, fma(a, mills, -1.0), mills)};
}

/// 4 tanh(x / 4) and its slope 1 - tanh²(x / 4), 3 ulp each.
struct SoftClip {
    float value, slope;
};

// tanh y: near 0 y + y³ p(y²) (Cephes' coefficients), from 0.625 on by e = exp(-2 |y|); the slope is 4 e / (1 + e)² everywhere.
__device__ __forceinline__ SoftClip softclip(float x) {
    constexpr float p[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                           -3.33332819422e-1f};
    const float e = expf(-0.5f * fabsf(x)), inverse = 1.0f / (1.0f + e), y = 0.25f * x, square = y * y;
    const float large = copysignf(4.0f * (1.0f - e) * inverse, x), small = fmaf(x * square, polynomial(square, p), x);
    return {fabsf(x) > 2.5f ? large : small, 4.0f * e * (inverse * inverse)};
}

/// The value alone, of either type.
__device__ __forceinline__ float soft_clipped(float x) {
    return softclip(x).value;
}
__device__ __forceinline__ double soft_clipped(double x) {
    return 4 * tanh(0.25 * x);
}

}  // namespace noema::cuda
