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

#include "cpu/normal-inl.h"
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

/// exp(-|x|) and exp(-|x|) - 1, 3 ulp each.
struct Falling {
    VF exp;
    VF less_one;
};

// With x = n log(2) + r and q = exp(r) - 1 they are p + p q and (p - 1) + p q, p = 2^n: near 0, where exp is nearly 1, n is 0 and
// the second is q itself.
HWY_INLINE Falling falling(VF x) {
    const DF d;
    const VF magnitude = hn::Abs(x), far = hn::Set(d, 87.9f);
    VF n, r;
    const VF y = exp_split(hn::Neg(hn::IfThenElse(hn::Gt(magnitude, far), far, magnitude)), n, r);
    const VF q = hn::MulAdd(hn::Mul(r, r), y, r), p = power_of_two(n);
    return {hn::MulAdd(q, p, p), hn::MulAdd(q, p, hn::Sub(p, hn::Set(d, 1.0f)))};
}

/// elu(x) = x for x > 0, else exp(x) - 1, and elu(-x), of one exponential; 3 ulp. The slopes are derivatives by x.
struct Elus {
    VF rising, falling;
    VF rising_slope, falling_slope;
};

HWY_INLINE Elus elus(VF x) {
    const VF one = hn::Set(DF(), 1.0f);
    const Falling f = falling(x);
    const auto positive = hn::Gt(x, hn::Zero(DF()));
    return {hn::IfThenElse(positive, x, f.less_one), hn::IfThenElse(positive, f.less_one, hn::Neg(x)),
            hn::IfThenElse(positive, one, f.exp), hn::Neg(hn::IfThenElse(positive, f.exp, one))};
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
