// Vector loops over a row, written once for every instruction set (Highway). Include inside a file that
// foreach_target.h includes again and again; no STL containers here, their weak symbols could replace the portable
// copy.
#if defined(NOEMA_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_SIMD_INL_H_
#undef NOEMA_CPU_SIMD_INL_H_
#else
#define NOEMA_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

/// Reads n < Lanes values; the lanes beyond are zero.
HWY_INLINE VF load_n(DF d, const float* p, size_t n) {
    return hn::MaskedLoad(hn::FirstN(d, n), d, p);
}
HWY_INLINE void store_n(VF v, DF d, float* p, size_t n) {
    hn::BlendedStore(v, hn::FirstN(d, n), d, p);
}

/// Calls body(load, store, i) over [0, n): whole vectors first, then one masked tail. `body` gets a tag with
/// load(p) and store(v, p) that are right for its step.
template <class Body>
HWY_INLINE void for_each_vector(int64_t n, const Body& body) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    int64_t i = 0;
    for (; i + L <= n; i += L)
        body([&](const float* p) HWY_ATTR { return hn::LoadU(d, p + i); },
             [&](VF v, float* p) HWY_ATTR { hn::StoreU(v, d, p + i); }, i);
    if (i < n) {
        const size_t rest = static_cast<size_t>(n - i);
        body([&](const float* p) HWY_ATTR { return load_n(d, p + i, rest); },
             [&](VF v, float* p) HWY_ATTR { store_n(v, d, p + i, rest); }, i);
    }
}

HWY_INLINE float sum_of(VF v) {
    return hn::GetLane(hn::SumOfLanes(DF(), v));
}
HWY_INLINE float max_of(VF v) {
    return hn::GetLane(hn::MaxOfLanes(DF(), v));
}

/// x = n log(2) + r, n an integral float; gives (exp(r) - 1 - r) / r² (Cephes' coefficients).
HWY_INLINE VF exp_split(VF x, VF& n, VF& r) {
    const DF d;
    n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504088896341f)));
    r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
    r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
    VF y = hn::Set(d, 1.9875691500e-4f);
    y = hn::MulAdd(y, r, hn::Set(d, 1.3981999507e-3f));
    y = hn::MulAdd(y, r, hn::Set(d, 8.3334519073e-3f));
    y = hn::MulAdd(y, r, hn::Set(d, 4.1665795894e-2f));
    y = hn::MulAdd(y, r, hn::Set(d, 1.6666665459e-1f));
    return hn::MulAdd(y, r, hn::Set(d, 5.0000001201e-1f));
}

/// exp(r) of that split, under 1 ulp.
HWY_INLINE VF exp_reduced(VF x, VF& n) {
    VF r;
    const VF y = exp_split(x, n, r);
    return hn::MulAdd(hn::Mul(r, r), y, hn::Add(r, hn::Set(DF(), 1.0f)));
}

/// 2^n for an integral n in [-127, 128); -127 gives 0. Adding 2^23 leaves n + 127 in the lowest bits: a conversion to integers,
/// which must care for all that does not fit, takes six instructions more.
HWY_INLINE VF power_of_two(VF n) {
    const hn::RebindToSigned<DF> di;
    const VF biased = hn::Add(n, hn::Set(DF(), 8388608.0f + 127.0f));
    return hn::BitCast(DF(), hn::ShiftLeft<23>(hn::BitCast(di, biased)));
}

/// exp(x) for x <= 0 (softmax after the maximum was taken off): below -87.3, -inf included, it is 0.
HWY_INLINE VF exp_nonpositive(VF x) {
    const DF d;
    VF n;
    const VF y = exp_reduced(hn::Max(x, hn::Set(d, -87.9f)), n);
    return hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.3f)), hn::Mul(y, power_of_two(n)));
}

/// exp(x) for any x: overflows to inf, underflows to 0 (denormal results are flushed), NaN stays NaN.
HWY_INLINE VF exp_any(VF x) {
    const DF d;
    VF n;
    const VF clamped = hn::Min(hn::Max(x, hn::Set(d, -87.9f)), hn::Set(d, 89.0f));
    const VF y = exp_reduced(clamped, n);
    const VF half = hn::Floor(hn::Mul(n, hn::Set(d, 0.5f)));
    const VF scaled = hn::Mul(hn::Mul(y, power_of_two(half)), power_of_two(hn::Sub(n, half)));
    const VF finite = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -87.3f)), scaled);
    return hn::IfThenElse(hn::Eq(x, x), finite, x);
}

/// exp(x) for |x| <= 87, exactly that: no bounds are looked at.
HWY_INLINE VF exp_within(VF x) {
    VF n;
    const VF y = exp_reduced(x, n);
    return hn::Mul(y, power_of_two(n));
}

/// 2^(x factor) for x <= 0, 0 where that is below 2^-126; NaN stays NaN. With n the nearest integer to x factor, read
/// off the low bits of a sum with 1.5 2^23, it is 2^n times the minimax polynomial of degree 5 on [-1/2, 1/2] (error
/// 9e-8); 2^n is multiplied by adding n to the exponent's bits.
template <class D>
struct Exp2 {
    using V = hn::Vec<D>;
    V factor, lowest;

    explicit HWY_INLINE Exp2(float f) : factor(hn::Set(D(), f)), lowest(hn::Set(D(), -126.0f / f)) {}

    HWY_INLINE V operator()(V x) const {
        const D d;
        const hn::RebindToSigned<D> di;
        const V magic = hn::Set(d, 12582912.0f);
        const V z = hn::MulAdd(x, factor, magic);
        const V f = hn::MulSub(x, factor, hn::Sub(z, magic));
        V y = hn::MulAdd(hn::Set(d, 1.3264727197e-3f), f, hn::Set(d, 9.6715126396e-3f));
        y = hn::MulAdd(y, f, hn::Set(d, 5.5507337433e-2f));
        y = hn::MulAdd(y, f, hn::Set(d, 2.4022242085e-1f));
        y = hn::MulAdd(y, f, hn::Set(d, 6.9314697760e-1f));
        y = hn::MulAdd(y, f, hn::Set(d, 1.0f));
        const auto bits = hn::Add(hn::BitCast(di, y), hn::ShiftLeft<23>(hn::BitCast(di, z)));
        return hn::IfThenZeroElse(hn::Lt(x, lowest), hn::BitCast(d, bits));
    }
};

constexpr float kLog2E = 1.44269504088896341f;

/// log(x) for positive normal x (Cephes' coefficients): relative error of about 1 ulp, also next to 1.
HWY_INLINE VF log_positive(VF x) {
    const DF d;
    const hn::RebindToSigned<DF> di;
    // m in [sqrt(1/2), sqrt(2)), x = m 2^e.
    const auto bits = hn::Add(hn::BitCast(di, x), hn::Set(di, 0x3F800000 - 0x3F3504F3));
    const VF e = hn::ConvertTo(d, hn::Sub(hn::ShiftRight<23>(bits), hn::Set(di, 127)));
    const auto mantissa = hn::Add(hn::And(bits, hn::Set(di, 0x007FFFFF)), hn::Set(di, 0x3F3504F3));
    const VF f = hn::Sub(hn::BitCast(d, mantissa), hn::Set(d, 1.0f));
    const VF z = hn::Mul(f, f);
    VF y = hn::Set(d, 7.0376836292e-2f);
    y = hn::MulAdd(y, f, hn::Set(d, -1.1514610310e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, 1.1676998740e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, -1.2420140846e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, 1.4249322787e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, -1.6668057665e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, 2.0000714765e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, -2.4999993993e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, 3.3333331174e-1f));
    y = hn::Mul(hn::Mul(y, f), z);
    y = hn::MulAdd(e, hn::Set(d, -2.12194440e-4f), y);
    y = hn::NegMulAdd(hn::Set(d, 0.5f), z, y);
    return hn::MulAdd(e, hn::Set(d, 0.693359375f), hn::Add(f, y));
}

/// 1 / (1 + exp(-x)).
HWY_INLINE VF sigmoid(VF x) {
    const VF one = hn::Set(DF(), 1.0f);
    return hn::Div(one, hn::Add(one, exp_any(hn::Neg(x))));
}

/// x as a multiple of `grid`, a power of two; as it is where that is 0.
HWY_INLINE VF gridded(VF x, double grid) {
    const DF d;
    if (grid == 0) return x;
    return hn::Mul(hn::Round(hn::Mul(x, hn::Set(d, static_cast<float>(1 / grid)))),
                   hn::Set(d, static_cast<float>(grid)));
}

/// Round to bf16 (nearest even) and back.
HWY_INLINE VF round_to_bf16(VF v) {
    const DF d;
    const hn::RebindToUnsigned<DF> du;
    const auto u = hn::BitCast(du, v);
    const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
    const auto rounded = hn::And(hn::Add(hn::Add(u, hn::Set(du, 0x7FFFu)), odd), hn::Set(du, 0xFFFF0000u));
    return hn::BitCast(d, rounded);
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
