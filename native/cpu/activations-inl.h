// Activations and their slopes, one definition for the ops gelu and swiglu and for the epilogue of matmul. All are
// built on exp of a non-positive number, so nothing overflows and nothing cancels; NaN stays NaN. The errors below are
// in units of the result's last place where the result is a normal number, measured over all magnitudes by
// test/ops/gelu.cpp and test/ops/swiglu.cpp. Values under 1e-35 may come out as zero (exp flushes below -87.3).
#if defined(NOEMA_CPU_ACTIVATIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_ACTIVATIONS_INL_H_
#undef NOEMA_CPU_ACTIVATIONS_INL_H_
#else
#define NOEMA_CPU_ACTIVATIONS_INL_H_
#endif

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// sigmoid(x) and sigmoid(-x), each to 4 ulp: 1 - sigmoid(x) would lose all digits for large x.
struct Logistic {
    VF rising;
    VF falling;
};

HWY_INLINE Logistic logistic(VF x) {
    const VF e = exp_nonpositive(hn::Neg(hn::Abs(x)));
    const VF large = hn::Div(hn::Set(DF(), 1.0f), hn::Add(hn::Set(DF(), 1.0f), e));
    const VF small = hn::Mul(e, large);
    const auto negative = hn::Lt(x, hn::Zero(DF()));
    return {hn::IfThenElse(negative, small, large), hn::IfThenElse(negative, large, small)};
}

/// x sigmoid(v).
HWY_INLINE VF times_sigmoid(VF x, VF v) {
    const VF one = hn::Set(DF(), 1.0f);
    const VF e = exp_nonpositive(hn::Neg(hn::Abs(v)));
    return hn::Div(hn::IfThenElse(hn::Lt(v, hn::Zero(DF())), hn::Mul(x, e), x), hn::Add(one, e));
}

/// x / (1 + exp(-x)): 3 ulp.
HWY_INLINE VF silu(VF x) {
    return times_sigmoid(x, x);
}

/// s (1 + x (1 - s)), s = sigmoid(x), given logistic(x): within 4e-7 of the truth (it has a
/// zero at -1.28, where ulps mean nothing).
HWY_INLINE VF silu_slope(VF x, Logistic s) {
    return hn::Mul(s.rising, hn::MulAdd(x, s.falling, hn::Set(DF(), 1.0f)));
}

/// The normal distribution at x: probability of less, and density.
struct Normal {
    VF below;
    VF density;
};

// P(-|x|) = exp(-x²/2) t p(t) with t = 1 / (1 + 0.35 |x|): one polynomial serves every x (fitted to 3.2e-8 relative on
// [0, 13.5], where P reaches the end of f32). exp gets x² in two parts: its argument's rounding alone would cost
// |x|²/2 = 87 ulp in the tail. (Without a fused multiply-add the low part vanishes; that cost is then paid.)
HWY_INLINE Normal normal(VF x) {
    const DF d;
    const VF magnitude = hn::Abs(x), far = hn::Set(d, 14.0f), half = hn::Set(d, 0.5f), one = hn::Set(d, 1.0f);
    const VF a = hn::IfThenElse(hn::Gt(magnitude, far), far, magnitude);
    const VF square = hn::Mul(a, a);
    const VF low = hn::MulSub(a, a, square);
    const VF e = exp_nonpositive(hn::Mul(square, hn::Set(d, -0.5f)));
    const VF bell = hn::NegMulAdd(hn::Mul(e, half), low, e);
    const VF t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.35f), one));
    VF p = hn::Set(d, -0.029125964f);
    p = hn::MulAdd(p, t, hn::Set(d, 0.1438726931f));
    p = hn::MulAdd(p, t, hn::Set(d, -0.2555054724f));
    p = hn::MulAdd(p, t, hn::Set(d, 0.1589302868f));
    p = hn::MulAdd(p, t, hn::Set(d, -0.0229377784f));
    p = hn::MulAdd(p, t, hn::Set(d, 0.1054331884f));
    p = hn::MulAdd(p, t, hn::Set(d, 0.1198523690f));
    p = hn::MulAdd(p, t, hn::Set(d, 0.1398591504f));
    p = hn::MulAdd(p, t, hn::Set(d, 0.1396215707f));
    const VF tail = hn::Mul(hn::Mul(p, t), bell);
    return {hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail)),
            hn::Mul(bell, hn::Set(d, 0.39894228040f))};
}

/// x P(x), P the normal distribution: 6 ulp with fused multiply-add.
HWY_INLINE VF gelu_erf(VF x) {
    return hn::Mul(x, normal(x).below);
}

/// P(x) + x density(x): within 4e-7 of the truth (it has a zero at -0.75, where ulps mean nothing).
HWY_INLINE VF gelu_erf_slope(VF x) {
    const DF d;
    const Normal n = normal(x);
    const VF far = hn::Set(d, 14.0f), magnitude = hn::Abs(x);
    const VF near = hn::CopySign(hn::IfThenElse(hn::Gt(magnitude, far), far, magnitude), x);
    return hn::MulAdd(near, n.density, n.below);
}

// 0.5 (1 + tanh(u)) = sigmoid(2u), which does not cancel for negative u. 2u = x (k1 + k3 x²), k1 = 2 sqrt(2/pi),
// k3 = 0.044715 k1.
constexpr float kTanhLinear = 1.5957691216f, kTanhCubic = 0.0713548163f;

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))): 4 + |2u| ulp for negative x (2u of the formula above), 4 for others.
HWY_INLINE VF gelu_tanh(VF x) {
    const DF d;
    const VF factor = hn::MulAdd(hn::Mul(x, x), hn::Set(d, kTanhCubic), hn::Set(d, kTanhLinear));
    return times_sigmoid(x, hn::Mul(x, factor));
}

/// s + x s (1 - s) (2u)', s = sigmoid(2u): within 4e-7 of the truth.
HWY_INLINE VF gelu_tanh_slope(VF x) {
    const DF d;
    const VF far = hn::Set(d, 20.0f), magnitude = hn::Abs(x);  // the slope is 0 or 1 from 11 on; x² stays finite
    const VF near = hn::CopySign(hn::IfThenElse(hn::Gt(magnitude, far), far, magnitude), x);
    const VF square = hn::Mul(near, near);
    const VF factor = hn::MulAdd(square, hn::Set(d, kTanhCubic), hn::Set(d, kTanhLinear));
    const VF slope = hn::MulAdd(square, hn::Set(d, 3 * kTanhCubic), hn::Set(d, kTanhLinear));
    const Logistic s = logistic(hn::Mul(near, factor));
    return hn::MulAdd(hn::Mul(near, s.rising), hn::Mul(s.falling, slope), s.rising);
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
