// Activations on vectors (Highway). Include after simd-inl.h's rules.
#if defined(NOEMA_CPU_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_ACTIVATION_INL_H_
#undef NOEMA_CPU_ACTIVATION_INL_H_
#else
#define NOEMA_CPU_ACTIVATION_INL_H_
#endif

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// x / (1 + exp(-x)).
HWY_INLINE VF silu(VF x) {
    return hn::Mul(x, sigmoid(x));
}

/// exp(x²) erfc(x) for x in [0, 10]: a polynomial of degree 8 in (x - 3.5) / (x + 3.5), over x + 2.5. Relative error
/// 1.6e-8, fitted with equal weight on the relative error.
HWY_INLINE VF scaled_erfc(VF x) {
    const DF d;
    const VF t = hn::Div(hn::Sub(x, hn::Set(d, 3.5f)), hn::Add(x, hn::Set(d, 3.5f)));
    VF y = hn::Set(d, -0.0018712075f);
    y = hn::MulAdd(y, t, hn::Set(d, 0.0012089675f));
    y = hn::MulAdd(y, t, hn::Set(d, 0.009707268f));
    y = hn::MulAdd(y, t, hn::Set(d, -0.04689122f));
    y = hn::MulAdd(y, t, hn::Set(d, 0.13128227f));
    y = hn::MulAdd(y, t, hn::Set(d, -0.273918f));
    y = hn::MulAdd(y, t, hn::Set(d, 0.4609848f));
    y = hn::MulAdd(y, t, hn::Set(d, -0.64853466f));
    y = hn::MulAdd(y, t, hn::Set(d, 0.9317619f));
    return hn::Div(y, hn::Add(x, hn::Set(d, 2.5f)));
}

/// The normal distribution function: half of erfc(|x| / sqrt 2) on the left, one minus that on the right, so both tails
/// keep their relative accuracy. Beyond |x| = 14 the smaller side is 0 in f32.
HWY_INLINE VF normal_cdf(VF x) {
    const DF d;
    const VF a = hn::Min(hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f)), hn::Set(d, 10.0f));
    const VF tail = hn::Mul(hn::Mul(hn::Set(d, 0.5f), exp_nonpositive(hn::Neg(hn::Mul(a, a)))), scaled_erfc(a));
    return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
}

/// x Phi(x).
HWY_INLINE VF gelu_erf(VF x) {
    return hn::Mul(x, normal_cdf(x));
}

/// x (1 + tanh(u)) / 2 = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x³).
HWY_INLINE VF gelu_tanh(VF x) {
    const DF d;
    const VF inner = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715f), hn::Mul(x, x)), x, x);
    return hn::Mul(x, sigmoid(hn::Mul(hn::Set(d, 1.5957691216f), inner)));
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
