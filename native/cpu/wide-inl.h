// The normal distribution in double, a vector at a time: what the couplings of wide states are made of. Relative errors, next to none of
// which are in a function's definition: exp and log 2e-16, tails 6e-16, quantiles 4e-16 of max(|u|, 1). NaN stays NaN. Include inside a
// file that foreach_target.h includes again and again.
#if defined(NOEMA_CPU_WIDE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_WIDE_INL_H_
#undef NOEMA_CPU_WIDE_INL_H_
#else
#define NOEMA_CPU_WIDE_INL_H_
#endif

#include "cpu/normal-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

using DW = hn::ScalableTag<double>;
using VW = hn::Vec<DW>;

HWY_INLINE double sum_of(VW v) {
    return hn::GetLane(hn::SumOfLanes(DW(), v));
}
HWY_INLINE double max_of(VW v) {
    return hn::GetLane(hn::MaxOfLanes(DW(), v));
}

/// c[0] x^(n-1) + ... + c[n-1].
template <size_t n>
HWY_INLINE VW polynomial(VW x, const double (&c)[n]) {
    const DW d;
    VW y = hn::Set(d, c[0]);
    for (size_t i = 1; i < n; ++i) y = hn::MulAdd(y, x, hn::Set(d, c[i]));
    return y;
}

/// exp(r), x = n log(2) + r: Taylor's series to r^13.
HWY_INLINE VW exp_reduced(VW x, VW& n) {
    constexpr double c[] = {
        1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0,
        1 / 720.0,        1 / 120.0,       1 / 24.0,       1 / 6.0,       0.5,          1,           1};
    const DW d;
    n = hn::Round(hn::Mul(x, hn::Set(d, 1.4426950408889634074)));
    VW r = hn::NegMulAdd(n, hn::Set(d, 6.93147180369123816490e-01), x);
    r = hn::NegMulAdd(n, hn::Set(d, 1.90821492927058770002e-10), r);
    return polynomial(r, c);
}
/// 2^n for an integral n in [-1023, 1024); -1023 gives 0.
HWY_INLINE VW power_of_two(VW n) {
    const hn::RebindToSigned<DW> di;
    const VW biased = hn::Add(n, hn::Set(DW(), 0x1p52 + 1023));
    return hn::BitCast(DW(), hn::ShiftLeft<52>(hn::BitCast(di, biased)));
}
/// exp(x) for x <= 0: below -708, -inf included, it is 0.
HWY_INLINE VW exp_nonpositive(VW x) {
    const DW d;
    VW n;
    const VW y = exp_reduced(hn::Max(x, hn::Set(d, -709.0)), n);
    return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -708.0)), hn::Mul(y, power_of_two(n)));
}
/// exp(x) for any x, inf and 0 included; NaN stays NaN.
HWY_INLINE VW exp_any(VW x) {
    const DW d;
    VW n;
    const VW y = exp_reduced(hn::Min(hn::Max(x, hn::Set(d, -709.0)), hn::Set(d, 710.0)), n);
    const VW half = hn::Floor(hn::Mul(n, hn::Set(d, 0.5)));
    const VW scaled = hn::Mul(hn::Mul(y, power_of_two(half)), power_of_two(hn::Sub(n, half)));
    const VW finite = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -708.0)), scaled);
    return hn::IfThenElse(hn::Eq(x, x), finite, x);
}
/// exp(x) for |x| <= 700, exactly that: no bounds are looked at.
HWY_INLINE VW exp_within(VW x) {
    VW n;
    const VW y = exp_reduced(x, n);
    return hn::Mul(y, power_of_two(n));
}

/// log(x) for positive normal x, by s = (m - 1) / (m + 1): log m = 2 s + 2 s³/3 + ... (the coefficients are fdlibm's).
HWY_INLINE VW log_positive(VW x) {
    constexpr double c[] = {1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01,
                            2.222219843214978396e-01, 2.857142874366239149e-01, 3.999999999940941908e-01,
                            6.666666666666735130e-01};
    const DW d;
    const hn::RebindToSigned<DW> di;
    // m in [sqrt(1/2), sqrt(2)), x = m 2^e.
    constexpr int64_t kOne = 0x3FF0000000000000, kRoot = 0x3FE6A09E667F3BCD;
    const auto bits = hn::Add(hn::BitCast(di, x), hn::Set(di, kOne - kRoot));
    const VW e = hn::ConvertTo(d, hn::Sub(hn::ShiftRight<52>(bits), hn::Set(di, 1023)));
    const auto mantissa = hn::Add(hn::And(bits, hn::Set(di, 0x000FFFFFFFFFFFFF)), hn::Set(di, kRoot));
    const VW f = hn::Sub(hn::BitCast(d, mantissa), hn::Set(d, 1.0)), half = hn::Mul(hn::Mul(f, f), hn::Set(d, 0.5));
    const VW s = hn::Div(f, hn::Add(f, hn::Set(d, 2.0))), z = hn::Mul(s, s);
    const VW rest = hn::Mul(s, hn::MulAdd(z, polynomial(z, c), half));
    const VW low = hn::MulAdd(e, hn::Set(d, 1.90821492927058770002e-10), rest);
    return hn::MulAdd(e, hn::Set(d, 6.93147180369123816490e-01), hn::Add(f, hn::Sub(low, half)));
}

/// P(-a) / exp(-a²/2) for a >= 0: t p(2 t - 1) with t = 1 / (1 + 0.3 a), fitted to 1e-16 relative for every a up to infinity.
HWY_INLINE VW tail_factor(VW a) {
    constexpr double p[] = {
        -7.4919487955906858e-10, 8.9465665071229842e-10,  5.9086306649137628e-09,  -1.073937041922307e-08,
        -1.7674818143865157e-08, 6.313690875828985e-08,   -8.0237640213795736e-09, -2.3438119394822784e-07,
        3.5327890463720223e-07,  5.2025236407636438e-07,  -2.2496644083599804e-06, 2.4386782642178421e-07,
        1.0731295192665155e-05,  -1.112539715109893e-05,  -4.9746361118386917e-05, 9.0139891373842561e-05,
        0.00028363691869613146,  -0.00057564251345547271, -0.0024238965482285273,  0.0018171357953587254,
        0.027760365473730609,    0.086549637418464567,    0.16457948408616269,     0.22197061383443278};
    const DW d;
    const VW one = hn::Set(d, 1.0), t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.3), one));
    return hn::Mul(polynomial(hn::Sub(hn::Add(t, t), one), p), t);
}
/// Mills' ratio P(-a) / density(a) for a >= 0.
HWY_INLINE VW mills_ratio(VW a) {
    return hn::Mul(tail_factor(a), hn::Set(DW(), 2.5066282746310005024));
}

/// exp(-a²/2) for a in [0, 37.6]; the square in two parts, as in normal-inl.h.
HWY_INLINE VW bell(VW a) {
    const DW d;
    const VW square = hn::Mul(a, a), low = hn::MulSub(a, a, square);
    const VW e = exp_nonpositive(hn::Mul(square, hn::Set(d, -0.5)));
    return hn::NegMulAdd(hn::Mul(e, hn::Set(d, 0.5)), low, e);
}
/// min(|x|, 37.6), where nothing is left of the bell. NaN stays NaN.
HWY_INLINE VW within_bell(VW x) {
    const VW magnitude = hn::Abs(x), far = hn::Set(DW(), 37.6);
    return hn::IfThenElse(hn::Gt(magnitude, far), far, magnitude);
}

/// u with P(u) = lower, 1 - P(u) = upper, both normal positive numbers whose sum is 1 (but for rounding); what is smaller decides. f32's
/// polynomials are right to 1e-7, and one step of Halley's cubes that.
HWY_INLINE VW quantile(VW lower, VW upper) {
    constexpr double central[] = {-1.243237602e-8, 3.125843477e-7,  -2.795138471e-6, 5.633149158e-6, 6.302473048e-5,
                                  -1.802862826e-4, -3.301193239e-3, 1.633226313e-2,  0.3281171024,   1.253314137};
    constexpr double outer[] = {8.735611916, -20.69783401, 20.57755852,    -12.31941223,
                                5.517150402, -1.586308002, -0.04720239341, 1.414855361};
    constexpr double far[] = {23814488,     -12702834,   2900616.25,   -372159.4062,    29779.37109,
                              -1589.520874, 64.99983978, -3.365293264, -0.003498511622, 1.414216399};
    const DW d;
    const VW one = hn::Set(d, 1.0), difference = hn::Sub(lower, upper), tail = hn::Min(lower, upper);
    const VW w = hn::Neg(log_positive(hn::Mul(hn::Mul(lower, hn::Set(d, 4.0)), upper)));
    const VW root = hn::Sqrt(hn::Max(w, hn::Set(d, 5.0))), inverse = hn::Div(one, root);
    const VW outside =
        hn::IfThenElse(hn::Gt(w, hn::Set(d, 86.0)), polynomial(inverse, far), polynomial(inverse, outer));
    const VW a = hn::IfThenElse(hn::Lt(w, hn::Set(d, 5.0)), hn::Mul(hn::Abs(difference), polynomial(w, central)),
                                hn::Mul(root, outside));
    const VW e = bell(a), density = hn::Mul(e, hn::Set(d, 0.39894228040143267794));
    const VW off = hn::Div(hn::MulSub(tail_factor(a), e, tail), density);
    const VW bend = hn::NegMulAdd(hn::Mul(a, hn::Set(d, 0.5)), off, one);
    const VW u = hn::Mul(hn::Add(a, hn::Div(off, bend)), hn::CopySign(one, difference));
    return hn::IfThenElse(hn::Eq(difference, difference), u, difference);
}

/// The same of logarithms, however small: quantile(exp(log_lower), exp(log_upper)).
HWY_INLINE VW quantile_of_log(VW log_lower, VW log_upper) {
    const DW d;
    const VW one = hn::Set(d, 1.0), half = hn::Set(d, 0.5), tail = hn::Min(log_lower, log_upper);
    // -log P(-a) = a²/2 + log(a sqrt(2 pi)) + ...: what is left of it by two steps, then Halley's on log P(-a).
    VW a = hn::Sqrt(hn::Mul(tail, hn::Set(d, -2.0)));
    for (int i = 0; i < 2; ++i) {
        const VW factor = log_positive(tail_factor(a));
        a = hn::Sqrt(hn::Max(hn::Mul(hn::Sub(factor, tail), hn::Set(d, 2.0)), hn::Zero(d)));
    }
    for (int i = 0; i < 2; ++i) {
        const VW mills = mills_ratio(a), square = hn::Mul(hn::Mul(a, a), half);
        const VW off = hn::Sub(log_positive(tail_factor(a)), hn::Add(square, tail));
        const VW bend = hn::NegMulAdd(hn::Mul(off, half), hn::MulSub(a, mills, one), one);
        a = hn::Add(a, hn::Div(hn::Mul(off, mills), bend));
    }
    const VW difference = hn::Sub(log_lower, log_upper);
    return hn::IfThenElse(hn::Eq(difference, difference), hn::CopySign(a, difference), difference);
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
