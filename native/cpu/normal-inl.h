// The normal distribution, the soft clip of log-scales and what the mixture couplings build on them, a vector at a time. Errors
// are in units of the result's last place (2^-24 relative is half of one) with fused multiply-add, measured over all magnitudes by
// test/ops/normal.cpp and test/ops/gelu.cpp. NaN stays NaN. Include inside a file that foreach_target.h includes again
// and again.
#if defined(NOEMA_CPU_NORMAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_NORMAL_INL_H_
#undef NOEMA_CPU_NORMAL_INL_H_
#else
#define NOEMA_CPU_NORMAL_INL_H_
#endif

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// c[0] x^(n-1) + ... + c[n-1].
template <size_t n>
HWY_INLINE VF polynomial(VF x, const float (&c)[n]) {
    const DF d;
    VF y = hn::Set(d, c[0]);
    for (size_t i = 1; i < n; ++i) y = hn::MulAdd(y, x, hn::Set(d, c[i]));
    return y;
}

/// P(-a) / exp(-a²/2) for a >= 0, P the normal distribution: sqrt(2/pi) / 2 of Mills' ratio, between 1/2 and 0.4 / a. It is
/// t p(2 t - 1) with t = 1 / (1 + 0.45 a); one polynomial, fitted to 2.3e-8 relative, serves every a up to infinity. From
/// -1 to 1 its terms shrink, and so do their roundings.
HWY_INLINE VF tail_factor(VF a) {
    constexpr float p[] = {-1.208128833e-05f, -3.704727351e-05f, 0.000119316639f, 0.0001182263732f,
                           -0.0006456614356f, 0.0002620201267f,  0.002683704719f, -0.004329042975f,
                           -0.0132086724f,    0.03346063942f,    0.1713013798f,   0.3102872074f};
    const DF d;
    const VF one = hn::Set(d, 1.0f);
    const VF t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.45f), one));
    return hn::Mul(polynomial(hn::Sub(hn::Add(t, t), one), p), t);
}

/// Mills' ratio P(-a) / density(a) for a >= 0.
HWY_INLINE VF mills_ratio(VF a) {
    return hn::Mul(tail_factor(a), hn::Set(DF(), 2.506628275f));
}

/// The normal distribution at x: probability of less and of more, and density; 5 ulp each while the density is above 1e-37.
struct Normal {
    VF below;
    VF above;
    VF density;
};

/// exp(-a²/2) for a in [0, 14]. exp gets a² in two parts: its argument's rounding alone would cost a²/2 = 87 ulp in the tail.
/// (Without a fused multiply-add the low part vanishes; that cost is then paid.)
HWY_INLINE VF bell(VF a) {
    const DF d;
    const VF square = hn::Mul(a, a);
    const VF low = hn::MulSub(a, a, square);
    const VF e = exp_nonpositive(hn::Mul(square, hn::Set(d, -0.5f)));
    return hn::NegMulAdd(hn::Mul(e, hn::Set(d, 0.5f)), low, e);
}

/// min(|x|, 14), where nothing is left of the bell. NaN stays NaN.
HWY_INLINE VF within_bell(VF x) {
    const VF magnitude = hn::Abs(x), far = hn::Set(DF(), 14.0f);
    return hn::IfThenElse(hn::Gt(magnitude, far), far, magnitude);
}

HWY_INLINE Normal normal(VF x) {
    const DF d;
    const VF a = within_bell(x), e = bell(a);
    const VF tail = hn::Mul(tail_factor(a), e);
    const VF rest = hn::Sub(hn::Set(d, 1.0f), tail);
    const auto negative = hn::Lt(x, hn::Zero(d));
    return {hn::IfThenElse(negative, tail, rest), hn::IfThenElse(negative, rest, tail),
            hn::Mul(e, hn::Set(d, 0.39894228040f))};
}

// The quantile by w = -log(4 lower upper), as Giles has it for the inverse of erf: difference * polynomial(w) up to w = 5 (|u| = 2.9),
// beyond that sqrt(w) * polynomial(1 / sqrt(w)), which is nearly sqrt(2 w). Fitted to 6e-9 and 6.6e-8 relative.
HWY_INLINE VF central_quantile(VF w, VF difference) {
    constexpr float p[] = {-1.243237602e-8f, 3.125843477e-7f,  -2.795138471e-6f, 5.633149158e-6f, 6.302473048e-5f,
                           -1.802862826e-4f, -3.301193239e-3f, 1.633226313e-2f,  0.3281171024f,   1.253314137f};
    return hn::Mul(difference, polynomial(w, p));
}
HWY_INLINE VF outer_quantile(VF w) {
    constexpr float p[] = {8.735611916f, -20.69783401f, 20.57755852f,    -12.31941223f,
                           5.517150402f, -1.586308002f, -0.04720239341f, 1.414855361f};
    const VF root = hn::Sqrt(w);
    return hn::Mul(root, polynomial(hn::Div(hn::Set(DF(), 1.0f), root), p));
}

/// u with P(u) = lower, 1 - P(u) = upper: 5 ulp or 5e-8, what is more (near 0 the pair rounds by as much). Both are
/// normal positive numbers whose sum is 1 (but for rounding); what is smaller decides, so nothing is lost near 1.
HWY_INLINE VF quantile(VF lower, VF upper) {
    const DF d;
    const VF edge = hn::Set(d, 5.0f), difference = hn::Sub(lower, upper);
    const VF w = hn::Neg(log_positive(hn::Mul(hn::Mul(lower, hn::Set(d, 4.0f)), upper)));
    const VF tail = hn::CopySign(outer_quantile(hn::Max(w, edge)), difference);
    const VF u = hn::IfThenElse(hn::Lt(w, edge), central_quantile(w, difference), tail);
    return hn::IfThenElse(hn::Eq(difference, difference), u, difference);
}

// outer_quantile for w from 86 to 3e5, to 1.1e-7; beyond that to 2e-6.
HWY_INLINE VF far_quantile(VF w) {
    constexpr float p[] = {23814488.f,    -12702834.f,  2900616.25f,   -372159.4062f,    29779.37109f,
                           -1589.520874f, 64.99983978f, -3.365293264f, -0.003498511622f, 1.414216399f};
    const VF root = hn::Sqrt(w);
    return hn::Mul(root, polynomial(hn::Div(hn::Set(DF(), 1.0f), root), p));
}

/// The same of logarithms, however small: quantile(exp(log_lower), exp(log_upper)), 5 ulp or 2e-7.
HWY_INLINE VF quantile_of_log(VF log_lower, VF log_upper) {
    const DF d;
    const VF edge = hn::Set(d, 5.0f), far = hn::Set(d, 86.0f);
    const VF w = hn::Sub(hn::Set(d, -1.386294361f), hn::Add(log_lower, log_upper));
    const VF difference = hn::Sub(exp_nonpositive(log_lower), exp_nonpositive(log_upper));
    const VF outer = hn::IfThenElse(hn::Gt(w, far), far_quantile(hn::Max(w, far)), outer_quantile(hn::Max(w, edge)));
    const VF u = hn::IfThenElse(hn::Lt(w, edge), central_quantile(w, difference), hn::CopySign(outer, difference));
    return hn::IfThenElse(hn::Eq(w, w), u, w);
}

/// 4 tanh(x / 4) and its slope 1 - tanh²(x / 4), 3 ulp each.
struct SoftClip {
    VF value;
    VF slope;
};

// tanh y: near 0 y + y³ p(y²) (Cephes' coefficients), from 0.625 on by e = exp(-2 |y|); the slope is 4 e / (1 + e)² everywhere.
HWY_INLINE SoftClip softclip(VF x) {
    constexpr float p[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                           -3.33332819422e-1f};
    const DF d;
    const VF one = hn::Set(d, 1.0f), four = hn::Set(d, 4.0f), magnitude = hn::Abs(x);
    const VF e = exp_nonpositive(hn::Mul(magnitude, hn::Set(d, -0.5f)));
    const VF inverse = hn::Div(one, hn::Add(one, e));
    const VF large = hn::CopySign(hn::Mul(hn::Mul(four, hn::Sub(one, e)), inverse), x);
    const VF y = hn::Mul(x, hn::Set(d, 0.25f)), square = hn::Mul(y, y);
    const VF small = hn::MulAdd(hn::Mul(x, square), polynomial(square, p), x);
    const VF value = hn::IfThenElse(hn::Gt(magnitude, hn::Set(d, 2.5f)), large, small);
    return {value, hn::Mul(hn::Mul(four, e), hn::Mul(inverse, inverse))};
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
