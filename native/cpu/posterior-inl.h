// The weights of a token's components as its scalars become known, in logarithms. Every component matters until its weight is seen to be
// nothing; then only those in reach are followed, a handful after two or three scalars. How many of the others could come back is
// bounded: a scalar raises no log weight by more than the largest -log sigma, while the largest weight's own way is known. When one
// could be within kSlack of the largest again, all are computed anew. So what is within kPrunedBelow of the largest is always
// known, and log p keeps all but e^-36 of its sum. Forward and inverse share this, and both know it before scalar i.
#if defined(NOEMA_CPU_POSTERIOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_POSTERIOR_INL_H_
#undef NOEMA_CPU_POSTERIOR_INL_H_
#else
#define NOEMA_CPU_POSTERIOR_INL_H_
#endif

#include <cmath>
#include <cstring>

#include "cpu/probit_root-inl.h"
#include "cpu/rosenblatt.h"
#include "noema/ops/mixture_rosenblatt.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// Components of e^-52 of the largest weight are followed, and all looked at again when one could be within e^-36. A token's own
/// distances use up sum x²/2 of what lies between: 16 in 16 scalars once in 100 tokens.
constexpr float kFollowed = 52.0f, kSlack = 36.0f;

/// Far out, components under e^-27 of the tail itself are not seen in it: 50257 of them are 1e-7 of it.
constexpr float kSeenInTail = 27.0f;

/// What there is of the components in one vector: x is the log weight relative to the largest, distance in sigmas.
struct Near {
    VF x, distance, inverse;
};

/// Of components at their distances (x: the log weight, relative to the largest): the weight if it counts, its parts of both tails, and it times
/// exp(-distance²/2).
struct Shares {
    VF weight, below, above, bell;
};
HWY_INLINE Shares shares_of(VF x, VF weight, VF distance) {
    const DF d;
    const VF w = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -kPrunedBelow)), weight);
    const VF a = within_bell(distance), e = hn::Mul(bell(a), w), tail = hn::Mul(tail_factor(a), e);
    const VF rest = hn::Sub(w, tail);
    const auto negative = hn::Lt(distance, hn::Zero(d));
    return {w, hn::IfThenElse(negative, tail, rest), hn::IfThenElse(negative, rest, tail), e};
}
HWY_INLINE bool any_unpruned(VF x) {
    const DF d;
    return !hn::AllTrue(d, hn::Lt(x, hn::Set(d, -kPrunedBelow)));
}

/// Sums of a scalar over the components that count in F, relative to the largest weight; of scalar 0 also all weights'.
struct PlainSums {
    float weight, below, above, all;
};

class Posterior {
 public:
    /// met: room for the numbers of the components that scalars after the first may meet, in whole vectors (met() below), if they are
    /// wanted.
    HWY_INLINE Posterior(const ComponentTable& table, const PosteriorMemory& memory, int32_t* met = nullptr)
        : t_(&table), m_(memory), met_(met) {}
    Posterior() = default;

    /// Before scalar 0.
    HWY_INLINE void start(const float* logits) {
        logits_ = logits;
        passed_ = 0;
        broken_ = false;
        met_count_ = -1;
        rest_ = -HUGE_VALF;
        see_all(kLogits, [&](int64_t k) HWY_ATTR { return load_logits(k); });
    }

    /// Past scalar passed(), whose value is z; its sums, if they are wanted.
    HWY_INLINE void pass(float z, PlainSums* sums = nullptr) {
        const int64_t i = passed_++;
        m_.z[i] = z;
        rest_ += t_->peak - m_.most[i];
        // The largest so far is known to come to this: what is far below it will be far below the largest.
        const float r = (z - t_->mean_of(i)[leader_]) * t_->inv_sigma[leader_];
        const float least = t_->neg_log_sigma[leader_] - 0.5f * r * r - kFollowed;
        if (sums)
            sweep<true>(i, z, least, *sums);
        else
            sweep<false>(i, z, least, none_);
        if (broken_) return;
        if (rest_ >= m_.most[i + 1] - kSlack) catch_up();
        if (met_ && i == 0 && source_ == kList) {
            met_count_ = count_;
            std::memcpy(met_, m_.index, sizeof(int32_t) * static_cast<size_t>(padded(count_)));
        }
    }

    /// No number can be told any more: something is not finite.
    bool broken() const { return broken_; }
    int64_t passed() const { return passed_; }
    /// How many components' numbers `met` holds; -1: any component may have been met.
    int64_t met() const { return met_count_; }
    /// The largest log weight before scalar i, relative to that before scalar i - 1.
    float most(int64_t i) const { return m_.most[i]; }

    /// The sum of all weights, relative to the largest.
    HWY_INLINE float weight() const {
        const DF d;
        const VF base = hn::Set(d, m_.most[passed_]);
        VF sum = hn::Zero(d);
        for (int64_t k = 0; k < count_; k += kLanes)
            sum = hn::Add(sum, exp_nonpositive(hn::Sub(load_weights(source_, k), base)));
        return sum_of(sum);
    }

    /// log p of all scalars so far, `first` being the weight() before them.
    double log_density(float first) const {
        double sum = std::log(static_cast<double>(weight()) / first);
        for (int64_t i = 1; i <= passed_; ++i) sum += static_cast<double>(m_.most[i]) - 0.91893853320467274178;
        return sum;
    }

    /// The components that count in F of scalar passed() where it is near, for a search. Their weights' sum relative to the largest.
    HWY_INLINE float gather(Components& to) const { return gather_from(to, -kPrunedBelow); }
    /// Those that can be seen in a tail of this logarithm, for a scalar that is far out.
    HWY_NOINLINE float gather_far(Components& to, float log_tail) {
        const float least = log_tail - kSeenInTail;
        if (rest_ - m_.most[passed_] >= least) catch_up();
        return gather_from(to, least);
    }

 private:
    HWY_INLINE float gather_from(Components& to, float least) const {
        const DF d;
        const VF base = hn::Set(d, m_.most[passed_]), one = hn::Set(d, 1.0f);
        VF sum = hn::Zero(d);
        int64_t n = 0;
        for (int64_t k = 0; k < count_; k += kLanes) {
            const VF x = hn::Sub(load_weights(source_, k), base);
            const auto kept = hn::Ge(x, hn::Set(d, least));
            if (hn::AllFalse(d, kept)) continue;
            const VF w = exp_nonpositive(x), inv = load_inverse(source_, k);
            sum = hn::Add(sum, hn::IfThenElseZero(kept, w));
            hn::StoreU(hn::Compress(x, kept), d, to.log_weight + n);
            hn::StoreU(hn::Compress(w, kept), d, to.weight + n);
            hn::StoreU(hn::Compress(load_means(source_, passed_, k), kept), d, to.mean + n);
            hn::StoreU(hn::Compress(inv, kept), d, to.inverse + n);
            hn::StoreU(hn::Compress(hn::Div(one, inv), kept), d, to.scale + n);
            n += static_cast<int64_t>(hn::CountTrue(d, kept));
        }
        hn::StoreU(lowest(), d, to.log_weight + n);
        for (float* array : {to.weight, to.mean, to.inverse}) hn::StoreU(hn::Zero(d), d, array + n);
        hn::StoreU(one, d, to.scale + n);
        to.n = padded(n);
        const float total = sum_of(sum);
        const VF scale = hn::Set(d, 1.0f / total);
        for (int64_t k = 0; k < to.n; k += kLanes)
            hn::StoreU(hn::Mul(hn::LoadU(d, to.weight + k), scale), d, to.weight + k);
        return total;
    }

    /// Where the components followed are: the table's own order with the logits or log_weight for weights, or a list of them.
    enum Source { kLogits, kTable, kList };
    using DI = hn::RebindToSigned<DF>;

    static HWY_INLINE VF lowest() { return hn::Set(DF(), -HUGE_VALF); }
    HWY_INLINE VF load_weights(Source source, int64_t k) const {
        return source == kLogits ? load_logits(k) : hn::LoadU(DF(), m_.log_weight + k);
    }
    HWY_INLINE VF load_inverse(Source source, int64_t k) const {
        return hn::LoadU(DF(), (source == kList ? m_.inverse : t_->inv_sigma) + k);
    }
    HWY_INLINE VF load_means(Source source, int64_t i, int64_t k) const {
        const float* row = t_->mean_of(i);
        if (source != kList) return hn::LoadU(DF(), row + k);
        return hn::GatherIndex(DF(), row, hn::LoadU(DI(), m_.index + k));
    }
    HWY_INLINE VF load_logits(int64_t k) const {
        const DF d;
        if (k + kLanes <= t_->K) return hn::LoadU(d, logits_ + k);
        const auto inside = hn::FirstN(d, static_cast<size_t>(t_->K - k));
        return hn::IfThenElse(inside, hn::MaskedLoad(inside, d, logits_ + k), lowest());
    }
    /// x, relative to the largest before, after a scalar at distance r.
    static HWY_INLINE VF after(VF x, VF r, VF peak) {
        return hn::Add(x, hn::NegMulAdd(hn::Mul(r, hn::Set(DF(), 0.5f)), r, peak));
    }

    /// The largest of many log weights, whose it is, and whether all are numbers.
    struct Largest {
        VF most;
        hn::Vec<DI> who;
        hn::Mask<DF> ordered;

        HWY_INLINE Largest() : most(lowest()), who(hn::Zero(DI())), ordered(hn::Eq(most, most)) {}
        HWY_INLINE void see(VF y, hn::Vec<DI> number) {
            ordered = hn::And(ordered, hn::Eq(y, y));
            who = hn::IfThenElse(hn::RebindMask(DI(), hn::Gt(y, most)), number, who);
            most = hn::Max(most, y);
        }
    };
    HWY_INLINE void found(const Largest& l, int64_t i) {
        const DF d;
        HWY_ALIGN int32_t who[kLanes];
        hn::Store(l.who, DI(), who);
        const float most = max_of(l.most);
        const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(l.most, hn::Set(d, most)));
        leader_ = who[lane < 0 ? 0 : lane];
        m_.most[i] = most;
        broken_ = broken_ || !hn::AllTrue(d, l.ordered) || !std::isfinite(most);
    }

    /// Takes all components, weight(k) being theirs before scalar passed().
    template <class F>
    HWY_INLINE void see_all(Source source, const F& weight) {
        Largest largest;
        const auto lane = hn::Iota(DI(), 0);
        for (int64_t k = 0; k < t_->K; k += kLanes) {
            const VF y = weight(k);
            largest.see(y, hn::Add(lane, hn::Set(DI(), static_cast<int32_t>(k))));
            if (source == kTable) hn::StoreU(y, DF(), m_.log_weight + k);
        }
        source_ = source;
        count_ = t_->K;
        found(largest, passed_);
    }

    /// All anew, by the same steps as sweep() takes.
    HWY_NOINLINE void catch_up() {
        const DF d;
        see_all(kTable, [&](int64_t k) HWY_ATTR {
            VF y = load_logits(k);
            const VF inv = hn::LoadU(d, t_->inv_sigma + k), peak = hn::LoadU(d, t_->neg_log_sigma + k);
            for (int64_t j = 0; j < passed_; ++j) {
                const VF r = hn::Mul(hn::Sub(hn::Set(d, m_.z[j]), hn::LoadU(d, t_->mean_of(j) + k)), inv);
                y = after(hn::Sub(y, hn::Set(d, m_.most[j])), r, peak);
            }
            return y;
        });
        rest_ = -HUGE_VALF;
        met_count_ = -1;
    }

    /// Weights after scalar i; those under `least` are let go.
    template <bool kSums>
    HWY_INLINE void sweep(int64_t i, float z, float least, PlainSums& sums) {
        if (source_ == kList)
            sweep_from<kList, kSums>(i, z, least, sums);
        else if (source_ == kTable)
            sweep_from<kTable, kSums>(i, z, least, sums);
        else
            sweep_from<kLogits, kSums>(i, z, least, sums);
    }

    template <Source source, bool kSums>
    HWY_NOINLINE void sweep_from(int64_t i, float z, float least, PlainSums& sums) {
        const DF d;
        const DI di;
        const VF base = hn::Set(d, m_.most[i]), at = hn::Set(d, z), bound = hn::Set(d, least);
        const auto lane = hn::Iota(di, 0);
        const int64_t count = count_;
        VF weight = hn::Zero(d), below = weight, above = weight, all = weight, rest = lowest();
        Largest largest;
        int64_t n = 0;
        for (int64_t k = 0; k < count; k += kLanes) {
            const VF x = hn::Sub(load_weights(source, k), base), inv = load_inverse(source, k);
            const VF peak = hn::LoadU(d, (source == kList ? m_.peak : t_->neg_log_sigma) + k);
            const VF r = hn::Mul(hn::Sub(at, load_means(source, i, k)), inv);
            const auto number =
                source == kList ? hn::LoadU(di, m_.index + k) : hn::Add(lane, hn::Set(di, static_cast<int32_t>(k)));
            if (kSums && (source == kLogits || any_unpruned(x))) {
                const VF w = exp_nonpositive(x);
                const Shares s = shares_of(x, w, r);
                all = hn::Add(all, w);
                weight = hn::Add(weight, s.weight);
                below = hn::Add(below, s.below);
                above = hn::Add(above, s.above);
            }
            const VF y = after(x, r, peak);
            largest.see(y, number);
            const auto gone = hn::Lt(y, bound), kept = hn::Not(gone);
            rest = hn::Max(rest, hn::IfThenElse(gone, y, rest));
            hn::StoreU(hn::Compress(y, kept), d, m_.log_weight + n);
            hn::StoreU(hn::Compress(inv, kept), d, m_.inverse + n);
            hn::StoreU(hn::Compress(peak, kept), d, m_.peak + n);
            hn::StoreU(hn::Compress(number, hn::RebindMask(di, kept)), di, m_.index + n);
            n += static_cast<int64_t>(hn::CountTrue(d, kept));
        }
        if (kSums) sums = {sum_of(weight), sum_of(below), sum_of(above), sum_of(all)};
        found(largest, i + 1);
        rest_ = std::fmax(rest_, max_of(rest));
        let_go(n);
    }

    /// n components are left.
    HWY_INLINE void let_go(int64_t n) {
        const DF d;
        hn::StoreU(lowest(), d, m_.log_weight + n);
        hn::StoreU(hn::Zero(d), d, m_.inverse + n);
        hn::StoreU(hn::Zero(d), d, m_.peak + n);
        hn::StoreU(hn::Zero(DI()), DI(), m_.index + n);
        source_ = source_ != kList && n >= t_->K ? kTable : kList;
        count_ = n < t_->K ? n : t_->K;
    }

    const ComponentTable* t_ = nullptr;
    PosteriorMemory m_ = {};
    const float* logits_ = nullptr;
    int32_t* met_ = nullptr;
    Source source_ = kLogits;
    bool broken_ = false;
    int64_t count_ = 0, passed_ = 0, met_count_ = -1;
    int32_t leader_ = 0;
    float rest_ = 0;  // none of the others is above this
    PlainSums none_;
};

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
