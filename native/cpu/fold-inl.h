// Four vectors folded over their lanes at once: a third of the shuffles that one after the other would take.
#if defined(NOEMA_CPU_FOLD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_FOLD_INL_H_
#undef NOEMA_CPU_FOLD_INL_H_
#else
#define NOEMA_CPU_FOLD_INL_H_
#endif

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

struct Most {
    template <class V>
    HWY_INLINE V operator()(V a, V b) const {
        return hn::Max(a, b);
    }
};
struct Plus {
    template <class V>
    HWY_INLINE V operator()(V a, V b) const {
        return hn::Add(a, b);
    }
};

#if HWY_TARGET != HWY_SCALAR
/// Folds the upper half onto the lower one until four lanes are left.
template <class D, class Fold>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> fold_to_four([[maybe_unused]] D d, hn::Vec<D> v, Fold fold) {
    if constexpr (hn::MaxLanes(D()) == 4) {
        return v;
    } else {
        const hn::Half<D> half;
        return fold_to_four(half, fold(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), fold);
    }
}
#endif

#if HWY_TARGET != HWY_SCALAR
/// Lanes of each of four vectors folded to one value: lane i of the result from v[i].
template <class Fold>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> folded_four(const VF (&v)[4], Fold fold) {
    const DF d;
    const hn::Repartition<uint64_t, DF> dw;
    const VF ab = fold(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1]));
    const VF ce = fold(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3]));
    const VF low = hn::BitCast(d, hn::InterleaveLower(dw, hn::BitCast(dw, ab), hn::BitCast(dw, ce)));
    const VF high = hn::BitCast(d, hn::InterleaveUpper(dw, hn::BitCast(dw, ab), hn::BitCast(dw, ce)));
    return fold_to_four(d, fold(low, high), fold);
}
#endif

/// The same: to[i] from v[i].
template <class Fold>
HWY_INLINE void fold_four(const VF (&v)[4], Fold fold, float* to) {
#if HWY_TARGET == HWY_SCALAR
    for (int i = 0; i < 4; ++i) to[i] = hn::GetLane(v[i]);
    (void)fold;
#else
    hn::StoreU(folded_four(v, fold), hn::CappedTag<float, 4>(), to);
#endif
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
