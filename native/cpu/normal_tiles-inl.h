// log N_k(z) for a few rows and two vectors of components at a time. Include inside a file that foreach_target.h includes again and
// again.
#if defined(NOEMA_CPU_NORMAL_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_NORMAL_TILES_INL_H_
#undef NOEMA_CPU_NORMAL_TILES_INL_H_
#else
#define NOEMA_CPU_NORMAL_TILES_INL_H_
#endif

#include "cpu/component_table.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

constexpr float kHalfLog2Pi = 0.91893853320467274f;

/// Components per chunk: at d = 16 the chunk's part of the table is 18 KB.
constexpr int64_t kChunk = 256;

/// |z - mean_k|² / (2 sigma_k²) of n rows at components k to k + 2 lanes. Four rows share each load of a mean, and a vector
/// operation's two operands come from registers but for one broadcast in two: loads do not bound it.
template <int n>
HWY_INLINE void half_distances(const ComponentTable& t, const float* const (&z)[n], int64_t k, VF (&half)[n][2]) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    for (int r = 0; r < n; ++r) half[r][0] = half[r][1] = hn::Zero(d);
    for (int64_t i = 0; i < t.d; ++i) {
        const float* mean = t.mean_of(i) + k;
        const VF low = hn::LoadU(d, mean), high = hn::LoadU(d, mean + L);
        for (int r = 0; r < n; ++r) {
            const VF x = hn::Set(d, z[r][i]), a = hn::Sub(x, low), b = hn::Sub(x, high);
            half[r][0] = hn::MulAdd(a, a, half[r][0]);
            half[r][1] = hn::MulAdd(b, b, half[r][1]);
        }
    }
    for (int v = 0; v < 2; ++v) {
        const VF scale = hn::LoadU(d, t.half_inv_var + k + v * L);
        for (int r = 0; r < n; ++r) half[r][v] = hn::Mul(half[r][v], scale);
    }
}

/// What is left of log N_k: -d (log sigma_k + log(2 pi) / 2).
HWY_INLINE VF log_peak(const ComponentTable& t, int64_t k) {
    const DF d;
    return hn::Mul(hn::Set(d, static_cast<float>(t.d)),
                   hn::Sub(hn::LoadU(d, t.neg_log_sigma + k), hn::Set(d, kHalfLog2Pi)));
}

/// exp(x) for x <= 0, NaN for NaN.
HWY_INLINE VF exp_falling(VF x) {
    return hn::IfThenElse(hn::Eq(x, x), exp_nonpositive(x), x);
}

/// Below this exp(x) is left out of sums whose largest term is 1: a million such terms weigh 3e-14.
constexpr float kNegligible = -45.0f;

/// What exp(x) counts for; NaN does.
HWY_INLINE auto counts(VF x) {
    return hn::Not(hn::Lt(x, hn::Set(DF(), kNegligible)));
}
HWY_INLINE bool any_counts(VF x) {
    return !hn::AllTrue(DF(), hn::Lt(x, hn::Set(DF(), kNegligible)));
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
