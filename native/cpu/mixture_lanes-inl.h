// One-dimensional mixtures with a scalar in every lane: sums over components then need no sums over lanes, and a mixture of two
// fills a vector as well as one of 64. The price is a transposition of the parameters, four components at a time. Include inside a
// file that foreach_target.h includes again and again.
#if defined(NOEMA_CPU_MIXTURE_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_MIXTURE_LANES_INL_H_
#undef NOEMA_CPU_MIXTURE_LANES_INL_H_
#else
#define NOEMA_CPU_MIXTURE_LANES_INL_H_
#endif

#include <cfloat>
#include <cmath>

#include "cpu/normal-inl.h"
#include "cpu/simd-inl.h"
#include "noema/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));
#if HWY_TARGET == HWY_SCALAR
constexpr int64_t kQuad = 1;
#else
constexpr int64_t kQuad = 4;
#endif

/// Up to kLanes consecutive scalars of an [R,c] matrix, rows one after the other.
struct Group {
    int64_t n = 0;  // scalars; lanes beyond repeat the last
    int64_t row[kLanes], i[kLanes];
};

/// Goes through the scalars of rows [first, last) a group at a time.
class Groups {
 public:
    Groups(int64_t first, int64_t last, int64_t c) : row_(first), last_(last), c_(c) {}
    bool next(Group& g) {
        g.n = 0;
        for (; g.n < kLanes && row_ < last_; ++g.n) {
            g.row[g.n] = row_;
            g.i[g.n] = i_;
            if (++i_ == c_) i_ = 0, ++row_;
        }
        if (g.n == 0) return false;
        for (int64_t lane = 1; lane < kLanes; ++lane)
            if (lane >= g.n) g.row[lane] = g.row[lane - 1], g.i[lane] = g.i[lane - 1];
        return true;
    }

 private:
    int64_t row_, last_, c_, i_ = 0;
};

/// An [R,c] matrix's elements of a group; an absent one is zero.
HWY_INLINE VF load_group(const View& v, const Group& g) {
    if (!v) return hn::Zero(DF());
    HWY_ALIGN float lanes[kLanes];
    for (int64_t s = 0; s < kLanes; ++s) lanes[s] = v.at<const float>(g.row[s])[g.i[s]];
    return hn::Load(DF(), lanes);
}
/// The same of an [R] vector.
HWY_INLINE VF load_rows(const View& v, const Group& g) {
    if (!v) return hn::Zero(DF());
    HWY_ALIGN float lanes[kLanes];
    for (int64_t s = 0; s < kLanes; ++s) lanes[s] = v.as<const float>()[g.row[s]];
    return hn::Load(DF(), lanes);
}
HWY_INLINE void store_group(VF x, const View& v, const Group& g) {
    HWY_ALIGN float lanes[kLanes];
    hn::Store(x, DF(), lanes);
    for (int64_t s = 0; s < g.n; ++s) v.at<float>(g.row[s])[g.i[s]] = lanes[s];
}

// --- transposition ---------------------------------------------------------------------------------------------------

#if HWY_TARGET == HWY_SCALAR

template <bool kWhole>
HWY_INLINE void load_quad(const float* const* rows, int64_t k, size_t, VF (&v)[kQuad]) {
    v[0] = hn::Set(DF(), rows[0][k]);
}
template <bool kWhole>
HWY_INLINE void store_quad(VF (&v)[kQuad], float* const* rows, int64_t k, size_t) {
    rows[0][k] = hn::GetLane(v[0]);
}

#else

/// Four numbers each of the rows 0, 4, 8, ... side by side; of fewer than four the rest is zero.
template <bool kWhole, class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* const* rows, int64_t k, size_t n) {
    if constexpr (hn::MaxLanes(D()) == 4) {
        if constexpr (kWhole) return hn::LoadU(d, rows[0] + k);
        return hn::MaskedLoad(hn::FirstN(d, n), d, rows[0] + k);
    } else {
        const hn::Half<D> half;
        constexpr size_t L = hn::MaxLanes(half);
        return hn::Combine(d, load_blocks<kWhole>(half, rows + L, k, n), load_blocks<kWhole>(half, rows, k, n));
    }
}
template <bool kWhole, class D>
HWY_INLINE void store_blocks(D d, hn::Vec<D> v, float* const* rows, int64_t k, size_t n) {
    if constexpr (hn::MaxLanes(D()) == 4) {
        if (!rows[0]) return;
        if constexpr (kWhole)
            hn::StoreU(v, d, rows[0] + k);
        else
            hn::BlendedStore(v, hn::FirstN(d, n), d, rows[0] + k);
    } else {
        const hn::Half<D> half;
        constexpr size_t L = hn::MaxLanes(half);
        store_blocks<kWhole>(half, hn::LowerHalf(half, v), rows, k, n);
        store_blocks<kWhole>(half, hn::UpperHalf(half, v), rows + L, k, n);
    }
}

/// In every 16 bytes, rows for columns.
HWY_INLINE void transpose(VF (&v)[kQuad]) {
    const DF d;
    const VF a = hn::InterleaveLower(d, v[0], v[2]), b = hn::InterleaveUpper(d, v[0], v[2]);
    const VF c = hn::InterleaveLower(d, v[1], v[3]), e = hn::InterleaveUpper(d, v[1], v[3]);
    v[0] = hn::InterleaveLower(d, a, c);
    v[1] = hn::InterleaveUpper(d, a, c);
    v[2] = hn::InterleaveLower(d, b, e);
    v[3] = hn::InterleaveUpper(d, b, e);
}

/// v[j]: number k + j of every row, a lane each.
template <bool kWhole>
HWY_INLINE void load_quad(const float* const* rows, int64_t k, size_t n, VF (&v)[kQuad]) {
    for (int64_t j = 0; j < kQuad; ++j) v[j] = load_blocks<kWhole>(DF(), rows + j, k, n);
    transpose(v);
}
/// The way back; rows that are null are left out.
template <bool kWhole>
HWY_INLINE void store_quad(VF (&v)[kQuad], float* const* rows, int64_t k, size_t n) {
    transpose(v);
    for (int64_t j = 0; j < kQuad; ++j) store_blocks<kWhole>(DF(), v[j], rows + j, k, n);
}

#endif

// --- the mixture -----------------------------------------------------------------------------------------------------

/// What one component has to do with the scalar at h.
struct Term {
    VF weight;    // exp(logit - max)
    VF below;     // weight P(x), x = (h - mean) / s
    VF above;     // weight P(-x)
    VF density;   // weight density(x) / s, without 1 / sqrt(2 pi)
    VF distance;  // h - mean
    VF inverse;   // 1 / s
    VF slope;     // of the soft clip
};
constexpr int64_t kTermVectors = 7;

HWY_INLINE VF keep_nan(VF x, VF of) {
    return hn::IfThenElse(hn::Eq(of, of), x, of);
}

/// What of it does not depend on h.
struct Component {
    VF weight, mean, inverse, slope;
};
HWY_INLINE Component component_of(VF log_weight, VF mean, VF raw) {
    const SoftClip clip = softclip(raw);
    return {keep_nan(exp_nonpositive(log_weight), log_weight), mean, exp_within(hn::Neg(clip.value)), clip.slope};
}

HWY_INLINE Term term_of(const Component& c, VF h) {
    const VF distance = hn::Sub(h, c.mean), x = hn::Mul(distance, c.inverse);
    const VF a = within_bell(x), e = bell(a), tail = hn::Mul(hn::Mul(tail_factor(a), e), c.weight);
    const VF rest = hn::Sub(c.weight, tail);
    const auto negative = hn::Lt(x, hn::Zero(DF()));
    return {c.weight,
            hn::IfThenElse(negative, tail, rest),
            hn::IfThenElse(negative, rest, tail),
            hn::Mul(hn::Mul(c.weight, e), c.inverse),
            distance,
            c.inverse,
            c.slope};
}

/// Sums over the components, each times exp of its exponent; exponents differ from 0 only where plain sums would leave the
/// floats. density lacks 1 / sqrt(2 pi).
struct MixtureSums {
    VF weight, below, above, density;
    VF below_exponent, above_exponent, density_exponent;
};

/// Terms kept for a second look: those of component k at kept + k kTermVectors kLanes. Null: not kept.
HWY_INLINE void keep_term(const Term& t, float* kept, int64_t k) {
    if (!kept) return;
    const DF d;
    float* to = kept + k * kTermVectors * kLanes;
    const VF v[] = {t.weight, t.below, t.above, t.density, t.distance, t.inverse, t.slope};
    for (int64_t j = 0; j < kTermVectors; ++j) hn::Store(v[j], d, to + j * kLanes);
}
HWY_INLINE Term kept_term(const float* kept, int64_t k) {
    const DF d;
    const float* from = kept + k * kTermVectors * kLanes;
    return {hn::Load(d, from),
            hn::Load(d, from + kLanes),
            hn::Load(d, from + 2 * kLanes),
            hn::Load(d, from + 3 * kLanes),
            hn::Load(d, from + 4 * kLanes),
            hn::Load(d, from + 5 * kLanes),
            hn::Load(d, from + 6 * kLanes)};
}

/// A group's parameters.
struct Mixtures {
    const float* row[kLanes];
    int64_t K;

    Mixtures(const View& parameters, const Group& g) : K(parameters.shape[2] / 3) {
        for (int64_t s = 0; s < kLanes; ++s) row[s] = parameters.at<const float>(g.row[s], g.i[s]);
    }

    VF largest_logits() const {
        const DF d;
        HWY_ALIGN float lanes[kLanes];
        for (int64_t s = 0; s < kLanes; ++s) {
            VF most = hn::Set(d, -HUGE_VALF);
            int64_t k = 0;
            for (; k + kLanes <= K; k += kLanes) most = hn::Max(most, hn::LoadU(d, row[s] + k));
            if (k < K) {
                const auto inside = hn::FirstN(d, static_cast<size_t>(K - k));
                most = hn::Max(most, hn::IfThenElse(inside, hn::MaskedLoad(inside, d, row[s] + k), most));
            }
            lanes[s] = max_of(most);
        }
        return hn::Load(d, lanes);
    }

    /// f(k, n, logits, means, raws) for up to kQuad components at a time, from k on.
    template <class F>
    HWY_INLINE void each_quad(const F& f) const {
        int64_t k = 0;
        for (; k + kQuad <= K; k += kQuad) quad<true>(k, kQuad, f);
        if (k < K) quad<false>(k, K - k, f);
    }
    /// f(k, logit, mean, raw) for every component.
    template <class F>
    HWY_INLINE void each(const F& f) const {
        each_quad([&](int64_t k, int64_t n, const auto& logit, const auto& mean, const auto& raw) HWY_ATTR {
            for (int64_t j = 0; j < n; ++j) f(k + j, logit[j], mean[j], raw[j]);
        });
    }

 private:
    template <bool kWhole, class F>
    HWY_INLINE void quad(int64_t k, int64_t n, const F& f) const {
        VF logit[kQuad], mean[kQuad], raw[kQuad];
        const size_t count = static_cast<size_t>(n);
        load_quad<kWhole>(row, k, count, logit);
        load_quad<kWhole>(row, K + k, count, mean);
        load_quad<kWhole>(row, 2 * K + k, count, raw);
        f(k, kWhole ? kQuad : n, logit, mean, raw);
    }
};

/// The exponents of a component's density and tails: log weight, and - x²/2 where they are small.
template <class V>
struct Exponents {
    V density, below, above;
};
template <class V>
HWY_INLINE Exponents<V> exponents_of(V log_weight, V x) {
    const hn::DFromV<V> d;
    const V falling = hn::MulAdd(hn::Mul(x, x), hn::Set(d, -0.5f), log_weight);
    const auto negative = hn::Lt(x, hn::Zero(d));
    return {falling, hn::IfThenElse(negative, falling, log_weight), hn::IfThenElse(negative, log_weight, falling)};
}

/// x² stays finite.
template <class V>
HWY_INLINE V within_squares(V x) {
    const hn::DFromV<V> d;
    const V far = hn::Set(d, 1e18f), a = hn::Abs(x);
    return hn::IfThenElse(hn::Gt(a, far), hn::CopySign(far, x), x);
}

/// The sums where a tail or the density is under 1e-30 of the largest weight: every sum relative to its largest term. Also puts
/// such terms in place of the kept ones, in these lanes.
HWY_NOINLINE inline void careful_sums(const Mixtures& m, VF most, VF h, VF rare_lanes, MixtureSums& sums, float* kept) {
    const DF d;
    const VF lowest = hn::Set(d, -HUGE_VALF), zero = hn::Zero(d), one = hn::Set(d, 1.0f);
    const auto x_of = [&](VF mean, VF raw) HWY_ATTR {
        return within_squares(hn::Mul(hn::Sub(h, mean), exp_within(hn::Neg(softclip(raw).value))));
    };
    Exponents<VF> top{lowest, lowest, lowest};
    m.each([&](int64_t, VF logit, VF mean, VF raw) HWY_ATTR {
        const Exponents<VF> e = exponents_of(hn::Sub(logit, most), x_of(mean, raw));
        top = {hn::Max(top.density, e.density), hn::Max(top.below, e.below), hn::Max(top.above, e.above)};
    });
    VF below = zero, above = zero, density = zero;
    const auto rare = hn::MaskFromVec(rare_lanes);
    m.each([&](int64_t k, VF logit, VF mean, VF raw) HWY_ATTR {
        const VF inverse = exp_within(hn::Neg(softclip(raw).value)), x = x_of(mean, raw);
        const Exponents<VF> e = exponents_of(hn::Sub(logit, most), x);
        const VF factor = tail_factor(hn::Abs(x)), rest = hn::NegMulAdd(factor, bell(within_bell(x)), one);
        const auto negative = hn::Lt(x, zero);
        const VF of_density = hn::Mul(exp_nonpositive(hn::Sub(e.density, top.density)), inverse);
        const VF of_below =
            hn::Mul(exp_nonpositive(hn::Sub(e.below, top.below)), hn::IfThenElse(negative, factor, rest));
        const VF of_above =
            hn::Mul(exp_nonpositive(hn::Sub(e.above, top.above)), hn::IfThenElse(negative, rest, factor));
        density = hn::Add(density, of_density);
        below = hn::Add(below, of_below);
        above = hn::Add(above, of_above);
        if (!kept) return;
        Term t = kept_term(kept, k);
        t.below = hn::IfThenElse(rare, of_below, t.below);
        t.above = hn::IfThenElse(rare, of_above, t.above);
        t.density = hn::IfThenElse(rare, of_density, t.density);
        keep_term(t, kept, k);
    });
    // What has no number yet keeps none: the maxima above pass over it.
    const VF lost = hn::Sub(sums.density, sums.density);
    sums.below = hn::IfThenElse(rare, hn::Add(below, lost), sums.below);
    sums.above = hn::IfThenElse(rare, hn::Add(above, lost), sums.above);
    sums.density = hn::IfThenElse(rare, hn::Add(density, lost), sums.density);
    sums.below_exponent = hn::IfThenElse(rare, top.below, zero);
    sums.above_exponent = hn::IfThenElse(rare, top.above, zero);
    sums.density_exponent = hn::IfThenElse(rare, top.density, zero);
}

HWY_INLINE MixtureSums sums_of(const Mixtures& m, VF h, float* kept) {
    const DF d;
    const VF zero = hn::Zero(d), most = m.largest_logits();
    MixtureSums s{zero, zero, zero, zero, zero, zero, zero};
    // Two steps, each for four components: in one, a component is a chain of 200 cycles, and too few are in flight.
    m.each_quad([&](int64_t k, int64_t n, const auto& logit, const auto& mean, const auto& raw) HWY_ATTR {
        Component c[kQuad];
        for (int64_t j = 0; j < kQuad; ++j) c[j] = component_of(hn::Sub(logit[j], most), mean[j], raw[j]);
        for (int64_t j = 0; j < n; ++j) {
            const Term t = term_of(c[j], h);
            s.weight = hn::Add(s.weight, t.weight);
            s.below = hn::Add(s.below, t.below);
            s.above = hn::Add(s.above, t.above);
            s.density = hn::Add(s.density, t.density);
            keep_term(t, kept, k + j);
        }
    });
    const auto enough = hn::Ge(hn::Min(hn::Min(s.below, s.above), s.density), hn::Set(d, 1e-30f));
    if (!hn::AllTrue(d, enough)) careful_sums(m, most, h, hn::VecFromMask(d, hn::Not(enough)), s, kept);
    return s;
}

/// A scalar's way through the flow.
struct Mapped {
    VF u;
    VF log_density;  // log p(h)
    VF log_slope;    // log du/dh
    VF mills;        // Mills' ratio at |u|: du = mills dT / T for the smaller tail T
    VF lower;        // mask: the lower tail is the smaller one
};

HWY_INLINE VF log_of(VF x) {
    return keep_nan(log_positive(x), x);
}

HWY_INLINE Mapped map_of(const MixtureSums& s) {
    const DF d;
    const VF scale = hn::Div(hn::Set(d, 1.0f), s.weight);
    const VF below = hn::Mul(s.below, scale), above = hn::Mul(s.above, scale);
    auto lower = hn::Le(below, above);
    VF u = quantile(below, above);
    const VF farthest = hn::Min(s.below_exponent, s.above_exponent);
    const auto rare = hn::Lt(hn::Min(farthest, s.density_exponent), hn::Zero(d));
    if (!hn::AllFalse(d, rare)) {
        const VF log_below = hn::Add(log_of(below), s.below_exponent),
                 log_above = hn::Add(log_of(above), s.above_exponent);
        lower = hn::Le(log_below, log_above);
        u = hn::IfThenElse(rare, quantile_of_log(log_below, log_above), u);
    }
    const VF tail = hn::IfThenElse(lower, s.below, s.above);
    const VF tail_exponent = hn::IfThenElse(lower, s.below_exponent, s.above_exponent);
    const VF root = hn::Set(d, 0.39894228040f), mills = mills_ratio(hn::Abs(u));
    const VF log_density = hn::Add(log_of(hn::Mul(hn::Mul(s.density, scale), root)), s.density_exponent);
    const VF ratio = hn::Div(hn::Mul(hn::Mul(s.density, root), mills), tail);
    const VF log_slope = hn::Add(log_of(ratio), hn::Sub(s.density_exponent, tail_exponent));
    return {u, log_density, log_slope, mills, hn::VecFromMask(d, lower)};
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
