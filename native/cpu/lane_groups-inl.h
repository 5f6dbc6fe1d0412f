// Vectors whose lanes belong together in groups of `width` neighbours, where rows are shorter than a vector: what a group
// shares is spread over its lanes, and its lanes are added up, in an order that depends on their place in the group alone.
#if defined(NOEMA_CPU_LANE_GROUPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_LANE_GROUPS_INL_H_
#undef NOEMA_CPU_LANE_GROUPS_INL_H_
#else
#define NOEMA_CPU_LANE_GROUPS_INL_H_
#endif

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// Lane 0 is element `place` of its group, which is group 0 here; 0 <= place < width <= 2^16.
class LaneGroups {
 public:
    HWY_INLINE LaneGroups(int64_t width, int64_t place) : width_(width), place_(place) {
        const DF d;
        // (whole + 0.5) / width is at least 0.5 / width from an integer: rounding cannot carry it over one.
        const VF middle = hn::Add(lanes(), hn::Set(d, number(place) + 0.5f));
        group_ = hn::ConvertTo(DI(), hn::Floor(hn::Mul(middle, hn::Set(d, 1.0f / number(width)))));
    }

    /// Of the groups that begin or go on in the first n > 0 lanes.
    int64_t count(int64_t n) const { return (place_ + n - 1) / width_ + 1; }

    /// Lane g of v to all lanes of group g.
    HWY_INLINE VF spread(VF v) const { return hn::TableLookupLanes(v, hn::IndicesFromVec(DF(), group_)); }

 protected:
    using DI = hn::RebindToSigned<DF>;

    static float number(int64_t n) { return static_cast<float>(n); }
    static HWY_INLINE VF lanes() { return hn::ConvertTo(DF(), hn::Iota(DI(), 0)); }

    int64_t width_, place_;
    hn::Vec<DI> group_;
};

/// Groups that can be added up.
class LaneSums : public LaneGroups {
 public:
    HWY_INLINE LaneSums(int64_t width, int64_t place) : LaneGroups(width, place) {
        const DF d;
        const VF lane = lanes(), last = hn::Set(d, number(static_cast<int64_t>(hn::Lanes(d)) - 1));
        const VF size = hn::Set(d, number(width)), start = hn::Set(d, number(place));
        const VF in_group = hn::NegMulAdd(hn::ConvertTo(d, group_), size, hn::Add(lane, start));
        const VF first = hn::MulSub(lane, size, start);
        first_ = hn::ConvertTo(DI(), hn::Min(hn::Max(first, hn::Zero(d)), last));
        for (int s = 0; s < kSteps; ++s) {
            const VF step = hn::Set(d, static_cast<float>(1 << s)), right = hn::Add(lane, step);
            right_[s] = hn::ConvertTo(DI(), hn::Min(right, last));
            same_[s] = hn::And(hn::Lt(hn::Add(in_group, step), size), hn::Le(right, last));
        }
    }

    /// The sum of group g's lanes in lane g.
    HWY_INLINE VF sums(VF v) const {
        const DF d;
        for (int s = 0; s < kSteps && int64_t{1} << s < width_; ++s)
            v = hn::Add(v, hn::IfThenElseZero(same_[s], hn::TableLookupLanes(v, hn::IndicesFromVec(d, right_[s]))));
        return hn::TableLookupLanes(v, hn::IndicesFromVec(d, first_));
    }

 private:
    static constexpr int kSteps = 4;  // 1, 2, 4, 8: vectors have at most 16 lanes

    hn::Vec<DI> first_, right_[kSteps];
    hn::Mask<DF> same_[kSteps];
};

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
