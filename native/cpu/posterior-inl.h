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

#include <algorithm>
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

/// Far out, components under e^-27 of the tail itself are not seen in it: 50257 of them are 1e-7 of it. (Of wide states: e^-36, 1e-11.)
constexpr float kSeenInTail = 27.0f, kSeenInWideTail = 36.0f;

/// What there is of the components in one vector: x is the log weight relative to the largest, distance in sigmas.
struct Near {
    VF x, distance, inverse;
};

/// Of components at their distances (x: the log weight, relative to the largest): the weight if it counts, its parts of both tails, and it times
/// exp(-distance²/2).
template <class V>
struct Shares {
    V weight, below, above, bell;
};
template <class V>
HWY_INLINE Shares<V> shares_of(V x, V weight, V distance) {
    const hn::DFromV<V> d;
    const V w = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -kPrunedBelow)), weight);
    const V a = within_bell(distance), e = hn::Mul(bell(a), w), tail = hn::Mul(tail_factor(a), e);
    const V rest = hn::Sub(w, tail);
    const auto negative = hn::Lt(distance, hn::Zero(d));
    return {w, hn::IfThenElse(negative, tail, rest), hn::IfThenElse(negative, rest, tail), e};
}
template <class V>
HWY_INLINE bool any_unpruned(V x) {
    const hn::DFromV<V> d;
    return !hn::AllTrue(d, hn::Lt(x, hn::Set(d, -kPrunedBelow)));
}

/// Sums of a scalar over the components that count in F, relative to the largest weight; of scalar 0 also all weights'.
struct PlainSums {
    float weight, below, above, all;
};

/// T: what log weights are kept in. The table is f32.
template <class T>
class Posterior {
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr bool kDouble = sizeof(T) == sizeof(double);
    static constexpr int64_t kN = static_cast<int64_t>(hn::MaxLanes(D()));
    static constexpr int64_t whole(int64_t n) { return (n + kN - 1) / kN * kN; }

 public:
    /// met: room for the numbers of the components that scalars after the first may meet, in whole vectors (met() below), if they are
    /// wanted.
    HWY_INLINE Posterior(const ComponentTable& table, const PosteriorMemory<T>& memory, int32_t* met = nullptr)
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

    /// Past scalar passed(), whose value is z; its sums, if they are wanted (of float only: double evaluates what it gathers).
    HWY_INLINE void pass(T z, PlainSums* sums = nullptr) {
        const int64_t i = passed_++;
        m_.z[i] = z;
        rest_ += t_->peak - m_.most[i];
        // The largest so far is known to come to this: what is far below it will be far below the largest.
        const T r = (z - T(t_->mean_of(i)[leader_])) * t_->inv_sigma[leader_];
        const T least = t_->neg_log_sigma[leader_] - T(0.5) * r * r - kFollowed;
        if (kDouble || !sums)
            sweep<false>(i, z, least, none_);
        else
            sweep<!kDouble>(i, z, least, *sums);
        if (broken_) return;
        if (rest_ >= m_.most[i + 1] - kSlack) catch_up();
        if (met_ && i == 0 && source_ == kList) {
            met_count_ = count_;
            std::memcpy(met_, m_.index, sizeof(int32_t) * static_cast<size_t>(whole(count_)));
        }
    }

    /// No number can be told any more: something is not finite.
    bool broken() const { return broken_; }
    int64_t passed() const { return passed_; }
    /// How many components' numbers `met` holds; -1: any component may have been met.
    int64_t met() const { return met_count_; }
    /// The largest log weight before scalar i, relative to that before scalar i - 1.
    T most(int64_t i) const { return m_.most[i]; }

    /// The sum of all weights, relative to the largest.
    HWY_INLINE T weight() const {
        const D d;
        const V base = hn::Set(d, m_.most[passed_]);
        V sum = hn::Zero(d);
        for (int64_t k = 0; k < count_; k += kN)
            sum = hn::Add(sum, exp_nonpositive(hn::Sub(load_weights(source_, k), base)));
        return sum_of(sum);
    }

    /// log p of all scalars so far, `first` being the weight() before them.
    double log_density(T first) const {
        double sum = std::log(static_cast<double>(weight()) / static_cast<double>(first));
        for (int64_t i = 1; i <= passed_; ++i) sum += static_cast<double>(m_.most[i]) - 0.91893853320467274178;
        return sum;
    }

    /// The components that count in F of scalar passed() where it is near, for a search. Their weights' sum relative to the largest.
    HWY_INLINE double gather(Components& to) const { return gather_from(to, -kPrunedBelow); }
    /// Those that can be seen in a tail of this logarithm, for a scalar that is far out.
    HWY_NOINLINE double gather_far(Components& to, double log_tail) {
        const T least = static_cast<T>(log_tail) - (kDouble ? kSeenInWideTail : kSeenInTail);
        if (rest_ - m_.most[passed_] >= least) catch_up();
        return gather_from(to, least);
    }

 private:
    HWY_INLINE double gather_from(Components& to, T least) const {
        const D d;
        const V base = hn::Set(d, m_.most[passed_]);
        double sum = 0;
        int64_t n = 0;
        for (int64_t k = 0; k < count_; k += kN) {
            const V x = hn::Sub(load_weights(source_, k), base);
            const auto kept = hn::Ge(x, hn::Set(d, least));
            if (hn::AllFalse(d, kept)) continue;
            store_wide(hn::Compress(x, kept), to.log_weight + n);
            store_wide(hn::Compress(load_means(source_, passed_, k), kept), to.mean + n);
            store_wide(hn::Compress(load_inverse(source_, k), kept), to.inverse + n);
            n += static_cast<int64_t>(hn::CountTrue(d, kept));
        }
        const DW w;
        hn::StoreU(hn::Set(w, -HUGE_VAL), w, to.log_weight + n);
        for (double* array : {to.mean, to.inverse}) hn::StoreU(hn::Zero(w), w, array + n);
        to.n = padded(n);
        VW total = hn::Zero(w);
        for (int64_t k = 0; k < to.n; k += kWideLanes) {
            const VW weight = exp_nonpositive(hn::LoadU(w, to.log_weight + k)), inverse = hn::LoadU(w, to.inverse + k);
            const auto there = hn::Gt(inverse, hn::Zero(w));
            const VW scale = hn::Div(hn::Set(w, 1.0), hn::IfThenElse(there, inverse, hn::Set(w, 1.0)));
            hn::StoreU(weight, w, to.weight + k);
            hn::StoreU(scale, w, to.scale + k);
            total = hn::Add(total, weight);
        }
        sum = sum_of(total);
        const VW scale = hn::Set(w, 1 / sum);
        for (int64_t k = 0; k < to.n; k += kWideLanes)
            hn::StoreU(hn::Mul(hn::LoadU(w, to.weight + k), scale), w, to.weight + k);
        return sum;
    }
    static HWY_INLINE void store_wide(V v, double* to) {
        if constexpr (kDouble) {
            hn::StoreU(v, D(), to);
        } else {
            HWY_ALIGN float narrow[kN];
            hn::Store(v, D(), narrow);
            for (int64_t i = 0; i < kN; ++i) to[i] = static_cast<double>(narrow[i]);
        }
    }

    /// Where the components followed are: the table's own order with the logits or log_weight for weights, or a list of them.
    enum Source { kLogits, kTable, kList };
    using DI = hn::Rebind<int32_t, D>;

    using DT = hn::Rebind<float, D>;
    /// f32 of the table in T.
    static HWY_INLINE V widened(hn::Vec<DT> v) {
        if constexpr (kDouble)
            return hn::PromoteTo(D(), v);
        else
            return v;
    }
    static HWY_INLINE V from_table(const float* p) { return widened(hn::LoadU(DT(), p)); }

    static HWY_INLINE V lowest() { return hn::Set(D(), -HUGE_VALF); }
    HWY_INLINE V load_weights(Source source, int64_t k) const {
        return source == kLogits ? load_logits(k) : hn::LoadU(D(), m_.log_weight + k);
    }
    HWY_INLINE V load_inverse(Source source, int64_t k) const {
        return source == kList ? hn::LoadU(D(), m_.inverse + k) : from_table(t_->inv_sigma + k);
    }
    HWY_INLINE V load_means(Source source, int64_t i, int64_t k) const {
        const float* row = t_->mean_of(i);
        if (source != kList) return from_table(row + k);
        return widened(hn::GatherIndex(DT(), row, hn::LoadU(DI(), m_.index + k)));
    }
    HWY_INLINE V load_logits(int64_t k) const {
        const D d;
        if (k + kN <= t_->K) return from_table(logits_ + k);
        const size_t n = static_cast<size_t>(t_->K - k);
        const V some = widened(hn::MaskedLoad(hn::FirstN(DT(), n), DT(), logits_ + k));
        return hn::IfThenElse(hn::FirstN(d, n), some, lowest());
    }
    /// x, relative to the largest before, after a scalar at distance r.
    static HWY_INLINE V after(V x, V r, V peak) {
        return hn::Add(x, hn::NegMulAdd(hn::Mul(r, hn::Set(D(), 0.5f)), r, peak));
    }

    static HWY_INLINE auto bits_of(hn::Mask<D> mask) {
        return hn::BitCast(hn::RebindToUnsigned<D>(), hn::VecFromMask(D(), mask));
    }
    /// A mask of D for the lanes of DI.
    static HWY_INLINE hn::Mask<DI> narrowed(hn::Mask<D> mask) {
        if constexpr (kDouble)
            return hn::MaskFromVec(hn::BitCast(DI(), hn::TruncateTo(hn::RebindToUnsigned<DI>(), bits_of(mask))));
        else
            return hn::RebindMask(DI(), mask);
    }

    /// The largest of many log weights, whose it is, and whether all are numbers.
    struct Largest {
        V most;
        hn::Vec<DI> who;
        hn::Mask<D> ordered;

        HWY_INLINE Largest() : most(lowest()), who(hn::Zero(DI())), ordered(hn::Eq(most, most)) {}
        HWY_INLINE void see(V y, hn::Vec<DI> number) {
            ordered = hn::And(ordered, hn::Eq(y, y));
            who = hn::IfThenElse(narrowed(hn::Gt(y, most)), number, who);
            most = hn::Max(most, y);
        }
    };
    HWY_INLINE void found(const Largest& l, int64_t i) {
        const D d;
        HWY_ALIGN int32_t who[kN];
        hn::Store(l.who, DI(), who);
        const T most = max_of(l.most);
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
        for (int64_t k = 0; k < t_->K; k += kN) {
            const V y = weight(k);
            largest.see(y, hn::Add(lane, hn::Set(DI(), static_cast<int32_t>(k))));
            if (source == kTable) hn::StoreU(y, D(), m_.log_weight + k);
        }
        source_ = source;
        count_ = t_->K;
        found(largest, passed_);
    }

    /// All anew, by the same steps as sweep() takes.
    HWY_NOINLINE void catch_up() {
        const D d;
        see_all(kTable, [&](int64_t k) HWY_ATTR {
            V y = load_logits(k);
            const V inv = from_table(t_->inv_sigma + k), peak = from_table(t_->neg_log_sigma + k);
            for (int64_t j = 0; j < passed_; ++j) {
                const V r = hn::Mul(hn::Sub(hn::Set(d, m_.z[j]), from_table(t_->mean_of(j) + k)), inv);
                y = after(hn::Sub(y, hn::Set(d, m_.most[j])), r, peak);
            }
            return y;
        });
        rest_ = -HUGE_VALF;
        met_count_ = -1;
    }

    /// Weights after scalar i; those under `least` are let go.
    template <bool kSums>
    HWY_INLINE void sweep(int64_t i, T z, T least, PlainSums& sums) {
        if (source_ == kList)
            sweep_from<kList, kSums>(i, z, least, sums);
        else if (source_ == kTable)
            sweep_from<kTable, kSums>(i, z, least, sums);
        else
            sweep_from<kLogits, kSums>(i, z, least, sums);
    }

    template <Source source, bool kSums>
    HWY_NOINLINE void sweep_from(int64_t i, T z, T least, PlainSums& sums) {
        const D d;
        const DI di;
        const V base = hn::Set(d, m_.most[i]), at = hn::Set(d, z), bound = hn::Set(d, least);
        const auto lane = hn::Iota(di, 0);
        const int64_t count = count_;
        V weight = hn::Zero(d), below = weight, above = weight, all = weight, rest = lowest();
        Largest largest;
        int64_t n = 0;
        for (int64_t k = 0; k < count; k += kN) {
            const V x = hn::Sub(load_weights(source, k), base), inv = load_inverse(source, k);
            const V peak = source == kList ? hn::LoadU(d, m_.peak + k) : from_table(t_->neg_log_sigma + k);
            const V r = hn::Mul(hn::Sub(at, load_means(source, i, k)), inv);
            const auto number =
                source == kList ? hn::LoadU(di, m_.index + k) : hn::Add(lane, hn::Set(di, static_cast<int32_t>(k)));
            if (kSums && (source == kLogits || any_unpruned(x))) {
                const V w = exp_nonpositive(x);
                const Shares<V> s = shares_of(x, w, r);
                all = hn::Add(all, w);
                weight = hn::Add(weight, s.weight);
                below = hn::Add(below, s.below);
                above = hn::Add(above, s.above);
            }
            const V y = after(x, r, peak);
            largest.see(y, number);
            const auto gone = hn::Lt(y, bound), kept = hn::Not(gone);
            rest = hn::Max(rest, hn::IfThenElse(gone, y, rest));
            hn::StoreU(hn::Compress(y, kept), d, m_.log_weight + n);
            hn::StoreU(hn::Compress(inv, kept), d, m_.inverse + n);
            hn::StoreU(hn::Compress(peak, kept), d, m_.peak + n);
            hn::StoreU(hn::Compress(number, narrowed(kept)), di, m_.index + n);
            n += static_cast<int64_t>(hn::CountTrue(d, kept));
        }
        if constexpr (kSums) sums = {sum_of(weight), sum_of(below), sum_of(above), sum_of(all)};
        found(largest, i + 1);
        rest_ = std::max(rest_, max_of(rest));
        let_go(n);
    }

    /// n components are left.
    HWY_INLINE void let_go(int64_t n) {
        const D d;
        hn::StoreU(lowest(), d, m_.log_weight + n);
        hn::StoreU(hn::Zero(d), d, m_.inverse + n);
        hn::StoreU(hn::Zero(d), d, m_.peak + n);
        hn::StoreU(hn::Zero(DI()), DI(), m_.index + n);
        source_ = source_ != kList && n >= t_->K ? kTable : kList;
        count_ = n < t_->K ? n : t_->K;
    }

    const ComponentTable* t_ = nullptr;
    PosteriorMemory<T> m_ = {};
    const float* logits_ = nullptr;
    int32_t* met_ = nullptr;
    Source source_ = kLogits;
    bool broken_ = false;
    int64_t count_ = 0, passed_ = 0, met_count_ = -1;
    int32_t leader_ = 0;
    T rest_ = 0;  // none of the others is above this
    PlainSums none_;
};

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
