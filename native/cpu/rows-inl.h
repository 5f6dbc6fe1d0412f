// Sums over a row, for the norms. Four accumulators: one chain of fused multiply-adds would wait 4 cycles for each
// vector, and four shorter chains also round less.
#if defined(NOEMA_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_ROWS_INL_H_
#undef NOEMA_CPU_ROWS_INL_H_
#else
#define NOEMA_CPU_ROWS_INL_H_
#endif

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

struct Factors {
    VF u, v;
};

/// The sum of u v over [0, n), where body(load) gives u and v of one vector; load(p) is as in for_each_vector.
template <class Body>
HWY_INLINE float sum_products(int64_t n, const Body& body) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    VF s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    const auto add = [&](int64_t at, VF sum) HWY_ATTR {
        const Factors f = body([=](const float* p) HWY_ATTR { return hn::LoadU(DF(), p + at); });
        return hn::MulAdd(f.u, f.v, sum);
    };
    for (; i + 4 * L <= n; i += 4 * L) {
        s0 = add(i, s0);
        s1 = add(i + L, s1);
        s2 = add(i + 2 * L, s2);
        s3 = add(i + 3 * L, s3);
    }
    for (; i + L <= n; i += L) s0 = add(i, s0);
    if (i < n) {
        const size_t rest = static_cast<size_t>(n - i);
        const Factors f = body([=](const float* p) HWY_ATTR { return load_n(DF(), p + i, rest); });
        s1 = hn::MulAdd(hn::IfThenElseZero(hn::FirstN(d, rest), f.u), f.v, s1);
    }
    return sum_of(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
