// The point where a one-dimensional mixture's F reaches P(u), P the normal distribution: a guarded Halley search on P^-1(F(x)) - u
// inside the components' own quantiles. As many searches at a time as a vector has lanes: each one's sums run over its components in
// lanes, one search after the other and independent of each other; quantiles and steps are taken for all at once. Include inside a
// file that foreach_target.h includes again and again.
#if defined(NOEMA_CPU_PROBIT_ROOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_PROBIT_ROOT_INL_H_
#undef NOEMA_CPU_PROBIT_ROOT_INL_H_
#else
#define NOEMA_CPU_PROBIT_ROOT_INL_H_
#endif

#include "cpu/component_table.h"
#include "cpu/mixture_lanes-inl.h"
#include "cpu/wide-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

constexpr int64_t kWideLanes = static_cast<int64_t>(hn::MaxLanes(DW()));

/// Beyond this u tails are sums in logarithms: 1e-197 leaves room for components whose weight is tiny.
constexpr double kFar = 30.0;
/// Halving alone needs 53 evaluations per factor 2^53 between the bracket and the scale of its components.
constexpr int kMostEvaluations = 160;

constexpr int64_t padded(int64_t K) {
    return (K + kWideLanes - 1) / kWideLanes * kWideLanes;
}

/// One scalar's components, in whole vectors; those beyond K weigh nothing.
struct Components {
    double *log_weight, *weight, *mean, *scale, *inverse;
    int64_t n;  // padded

    static constexpr int64_t kArrays = kComponentArrays;
    Components() = default;
    Components(double* memory, int64_t K)
        : log_weight(memory),
          weight(memory + padded(K)),
          mean(memory + 2 * padded(K)),
          scale(memory + 3 * padded(K)),
          inverse(memory + 4 * padded(K)),
          n(padded(K)) {}
};

/// Values of up to kWideLanes scalars.
struct alignas(64) Lanes {
    double of[kWideLanes];
    VW get() const { return hn::Load(DW(), of); }
    void set(VW v) { hn::Store(v, DW(), of); }
};

/// The search's state, a lane per scalar.
struct Search {
    Lanes u, x, low, high, last_step, last_residual;
    Lanes centre, spread, start_lower, start_upper;  // where it starts: centre + spread quantile
    Lanes below, above, density, slope;              // sums at x; slope: the density's derivative
    Lanes below_exponent, above_exponent, density_exponent;
    bool active[kWideLanes], far[kWideLanes];
    int32_t evaluations[kWideLanes];
};

// The mixture's quantile lies between its components' quantiles of the same level. Components without weight do not count,
// unless u is so far out that logarithms decide.
HWY_INLINE void bracket(const Components& of, Search& s, int64_t lane) {
    const DW d;
    const VW u = hn::Set(d, s.u.of[lane]), none = hn::Set(d, HUGE_VALF);
    const VW least = hn::Set(d, s.far[lane] ? -DBL_MAX : -700.0);
    VW low = none, high = hn::Neg(none), size = hn::Zero(d);
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const VW mean = hn::Load(d, of.mean + k), reach = hn::Mul(hn::Load(d, of.scale + k), u);
        const auto counts = hn::Ge(hn::Load(d, of.log_weight + k), least);
        low = hn::Min(low, hn::IfThenElse(counts, hn::Add(mean, reach), none));
        high = hn::Max(high, hn::IfThenElse(counts, hn::Add(mean, reach), hn::Neg(none)));
        size = hn::Max(size, hn::IfThenElseZero(counts, hn::Add(hn::Abs(mean), hn::Abs(reach))));
    }
    const double rounding = 1e-15 * max_of(size);
    s.low.of[lane] = hn::GetLane(hn::MinOfLanes(d, low)) - rounding;
    s.high.of[lane] = max_of(high) + rounding;
}

/// Mass and mass times scale of the components whose means lie in (from, to].
struct Part {
    double mass, spread;
};
HWY_INLINE Part part_of(const Components& of, double from, double to) {
    const DW d;
    VW mass = hn::Zero(d), spread = hn::Zero(d);
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const VW mean = hn::Load(d, of.mean + k);
        const auto inside = hn::And(hn::Gt(mean, hn::Set(d, from)), hn::Le(mean, hn::Set(d, to)));
        const VW w = hn::IfThenElseZero(inside, hn::Load(d, of.weight + k));
        mass = hn::Add(mass, w);
        spread = hn::MulAdd(w, hn::Load(d, of.scale + k), spread);
    }
    return {sum_of(mass), sum_of(spread)};
}

// The start: the range of the means is halved towards where the cumulative weight crosses P(u), until it is no wider than four
// scales of the components in it; these are taken for one normal distribution (their mean and variance), and that is inverted at what
// is left of the level. (Sorting the means would cost more than an evaluation, and starts worse where components overlap.)
HWY_INLINE void find_start(const Components& of, Search& s, int64_t lane) {
    const DW d;
    constexpr int kMostHalvings = 6;
    const VW u = hn::Set(d, s.u.of[lane]), a = within_bell(u);
    const double tail = hn::GetLane(hn::Mul(tail_factor(a), bell(a)));
    const double lower = s.u.of[lane] < 0 ? tail : 1 - tail, upper = s.u.of[lane] < 0 ? 1 - tail : tail;
    VW least = hn::Set(d, HUGE_VALF), most = hn::Set(d, -HUGE_VALF);
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const VW mean = hn::Load(d, of.mean + k);
        const auto counts = hn::Gt(hn::Load(d, of.weight + k), hn::Zero(d));
        least = hn::Min(least, hn::IfThenElse(counts, mean, least));
        most = hn::Max(most, hn::IfThenElse(counts, mean, most));
    }
    double from = hn::GetLane(hn::MinOfLanes(d, least)), to = max_of(most), before = 0, after = 0;
    from -= 1e-15 * std::fabs(from) + DBL_MIN;  // open on this side
    Part part = part_of(of, from, to);
    for (int i = 0; i < kMostHalvings && (to - from) * part.mass > 4 * part.spread; ++i) {
        const double middle = 0.5 * from + 0.5 * to;
        const Part left = part_of(of, from, middle), right{part.mass - left.mass, part.spread - left.spread};
        const bool go_left = before + left.mass >= lower;
        const Part next = go_left ? left : right;
        if (!(next.mass > 1e-6)) break;
        (go_left ? to : from) = middle;
        (go_left ? after : before) += go_left ? right.mass : left.mass;
        part = next;
    }
    VW mass = hn::Zero(d), first = mass, second = mass;
    const VW origin = hn::Set(d, 0.5 * from + 0.5 * to);  // moments about it do not cancel
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const VW mean = hn::Load(d, of.mean + k), scale = hn::Load(d, of.scale + k), off = hn::Sub(mean, origin);
        const auto inside = hn::And(hn::Gt(mean, hn::Set(d, from)), hn::Le(mean, hn::Set(d, to)));
        const VW w = hn::IfThenElseZero(inside, hn::Load(d, of.weight + k));
        mass = hn::Add(mass, w);
        first = hn::MulAdd(w, off, first);
        second = hn::MulAdd(w, hn::MulAdd(off, off, hn::Mul(scale, scale)), second);
    }
    const double inverse = 1 / sum_of(mass), shift = sum_of(first) * inverse;
    const double variance = sum_of(second) * inverse - shift * shift;
    s.centre.of[lane] = 0.5 * from + 0.5 * to + shift;
    s.spread.of[lane] = std::sqrt(variance > 0 ? variance : 0);
    // Next to a part's ends what other components reach over counts for more than this one's tail.
    const double end = before + after > 0 ? 1e-3 : 1e-300;
    s.start_lower.of[lane] = (lower - before) * inverse;
    s.start_upper.of[lane] = (upper - after) * inverse;
    if (!(s.start_lower.of[lane] > end)) s.start_lower.of[lane] = end;
    if (!(s.start_upper.of[lane] > end)) s.start_upper.of[lane] = end;
}

/// The sums of four vectors over their lanes.
HWY_INLINE void sums_of_lanes(VW a, VW b, VW c, VW e, double (&out)[4]) {
    out[0] = sum_of(a);
    out[1] = sum_of(b);
    out[2] = sum_of(c);
    out[3] = sum_of(e);
}

/// Tails, density and its derivative at x (the last two without 1 / sqrt(2 pi)).
HWY_INLINE void evaluate(const Components& of, Search& s, int64_t lane) {
    const DW d;
    const VW x = hn::Set(d, s.x.of[lane]);
    VW below = hn::Zero(d), above = below, density = below, slope = below;
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const VW w = hn::Load(d, of.weight + k), inverse = hn::Load(d, of.inverse + k);
        const VW at = hn::Mul(hn::Sub(x, hn::Load(d, of.mean + k)), inverse), a = within_bell(at), e = bell(a);
        const VW tail = hn::Mul(hn::Mul(tail_factor(a), e), w), rest = hn::Sub(w, tail);
        const auto negative = hn::Lt(at, hn::Zero(d));
        below = hn::Add(below, hn::IfThenElse(negative, tail, rest));
        above = hn::Add(above, hn::IfThenElse(negative, rest, tail));
        const VW own = hn::Mul(hn::Mul(w, e), inverse);
        density = hn::Add(density, own);
        slope = hn::NegMulAdd(hn::Mul(own, inverse), hn::CopySign(a, at), slope);
    }
    double sums[4];
    sums_of_lanes(below, above, density, slope, sums);
    // Where a tail is under all floats the search is far from done; its side is what counts.
    s.below.of[lane] = sums[0] > 1e-300 ? sums[0] : 1e-300;
    s.above.of[lane] = sums[1] > 1e-300 ? sums[1] : 1e-300;
    s.density.of[lane] = sums[2];
    s.slope.of[lane] = sums[3];
    s.below_exponent.of[lane] = s.above_exponent.of[lane] = s.density_exponent.of[lane] = 0;
}

/// The same relative to the largest terms.
HWY_NOINLINE inline void evaluate_far(const Components& of, Search& s, int64_t lane) {
    const DW d;
    const VW x = hn::Set(d, s.x.of[lane]), lowest = hn::Set(d, -HUGE_VALF), one = hn::Set(d, 1.0);
    const auto at_of = [&](int64_t k) HWY_ATTR {
        return within_squares(hn::Mul(hn::Sub(x, hn::Load(d, of.mean + k)), hn::Load(d, of.inverse + k)));
    };
    Exponents<VW> top{lowest, lowest, lowest};
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const Exponents<VW> e = exponents_of(hn::Load(d, of.log_weight + k), at_of(k));
        top = {hn::Max(top.density, e.density), hn::Max(top.below, e.below), hn::Max(top.above, e.above)};
    }
    top = {hn::MaxOfLanes(d, top.density), hn::MaxOfLanes(d, top.below), hn::MaxOfLanes(d, top.above)};
    VW below = hn::Zero(d), above = below, density = below, slope = below;
    for (int64_t k = 0; k < of.n; k += kWideLanes) {
        const VW at = at_of(k), inverse = hn::Load(d, of.inverse + k);
        const Exponents<VW> e = exponents_of(hn::Load(d, of.log_weight + k), at);
        const VW factor = tail_factor(hn::Abs(at)), rest = hn::NegMulAdd(factor, bell(within_bell(at)), one);
        const auto negative = hn::Lt(at, hn::Zero(d));
        const VW own = hn::Mul(exp_nonpositive(hn::Sub(e.density, top.density)), inverse);
        const VW to_below = exp_nonpositive(hn::Sub(e.below, top.below));
        const VW to_above = exp_nonpositive(hn::Sub(e.above, top.above));
        below = hn::MulAdd(to_below, hn::IfThenElse(negative, factor, rest), below);
        above = hn::MulAdd(to_above, hn::IfThenElse(negative, rest, factor), above);
        density = hn::Add(density, own);
        slope = hn::NegMulAdd(hn::Mul(own, inverse), at, slope);
    }
    // Of unnormalised weights: the logarithm of their sum belongs to the tails' exponents.
    VW weight = hn::Zero(d);
    for (int64_t k = 0; k < of.n; k += kWideLanes)
        weight = hn::Add(weight, exp_nonpositive(hn::Load(d, of.log_weight + k)));
    const double all = hn::GetLane(log_positive(hn::SumOfLanes(d, weight)));
    double sums[4];
    sums_of_lanes(below, above, density, slope, sums);
    s.below.of[lane] = sums[0];
    s.above.of[lane] = sums[1];
    s.density.of[lane] = sums[2];
    s.slope.of[lane] = sums[3];
    s.below_exponent.of[lane] = hn::GetLane(top.below) - all;
    s.above_exponent.of[lane] = hn::GetLane(top.above) - all;
    s.density_exponent.of[lane] = hn::GetLane(top.density) - all;
}

/// Where the sums at x are on the way: P^-1(F(x)), 1 / density there, and which tail is the smaller one.
struct Probit {
    VW z, ratio;
};
HWY_INLINE Probit probit_of(const Search& s, bool any_far) {
    const DW d;
    const VW below = s.below.get(), above = s.above.get(), root = hn::Set(d, 0.39894228040143267794);
    auto lower = hn::Le(below, above);
    VW z = quantile(below, above), tilt = hn::Zero(d);
    if (any_far) {
        const VW log_below = hn::Add(log_positive(below), s.below_exponent.get());
        const VW log_above = hn::Add(log_positive(above), s.above_exponent.get());
        const auto far = hn::Gt(hn::Abs(s.u.get()), hn::Set(d, kFar));
        lower = hn::Or(hn::And(far, hn::Le(log_below, log_above)), hn::AndNot(far, lower));
        z = hn::IfThenElse(far, quantile_of_log(log_below, log_above), z);
        tilt = hn::Sub(s.density_exponent.get(), hn::IfThenElse(lower, s.below_exponent.get(), s.above_exponent.get()));
    }
    const VW tail = hn::IfThenElse(lower, below, above);
    return {z, hn::Div(hn::Mul(hn::Mul(root, mills_ratio(hn::Abs(z))), exp_any(tilt)), tail)};
}

/// Halley's step on g = P^-1(F(x)) - u, or half the bracket where that would leave it or does not shrink. Lanes that are
/// done keep the x that they were evaluated at, or take a last step.
HWY_INLINE VW step(Search& s, bool any_far) {
    const DW d;
    const VW u = s.u.get(), x = s.x.get(), half = hn::Set(d, 0.5);
    const auto [z, ratio] = probit_of(s, any_far);
    const VW g = hn::Sub(z, u);
    const VW density = s.density.get(), rate = hn::Mul(density, ratio);  // g'
    const VW newton = hn::Div(g, rate);
    // Half of g g'' / g'², g'' / g'² = p' / (p g') + z. Limited: far from the root it means nothing.
    VW bend = hn::Mul(hn::Mul(half, g), hn::Add(hn::Div(s.slope.get(), hn::Mul(density, rate)), z));
    bend = hn::Min(hn::Max(bend, hn::Set(d, -1.0)), half);
    const VW halley = hn::Div(newton, hn::Sub(hn::Set(d, 1.0), bend));

    const auto too_low = hn::Lt(g, hn::Zero(d));
    const VW low = hn::IfThenElse(too_low, x, s.low.get()), high = hn::IfThenElse(too_low, s.high.get(), x);
    const VW middle = hn::MulAdd(half, low, hn::Mul(half, high)), next = hn::Sub(x, halley);
    const auto shrinks = hn::Le(hn::Mul(hn::Set(d, 2.0), hn::Abs(halley)), s.last_step.get());
    const auto good = hn::And(shrinks, hn::And(hn::Gt(next, low), hn::Lt(next, high)));
    const VW to = hn::IfThenElse(good, next, middle);
    s.low.set(low);
    s.high.set(high);

    // Tails are right to some 1e-15, quantiles to a few roundings. Where numbers lie farther apart than that the search ends when
    // the step is less than one, or nothing is left between the ends. Halley cubes the residual: when the last step did, and little
    // bends, what the next one leaves need not be looked at.
    const VW size = hn::Abs(g), shrunk = hn::Div(size, s.last_residual.get());
    const VW foreseen = hn::Mul(hn::Mul(size, shrunk), hn::Mul(shrunk, shrunk));
    const VW allowed = hn::MulAdd(hn::Abs(u), hn::Set(d, 4e-15), hn::Set(d, 4e-15));
    const auto stuck = hn::Or(hn::Eq(next, x), hn::Or(hn::Le(middle, low), hn::Ge(middle, high)));
    const auto there = hn::Or(hn::Le(size, allowed), stuck);
    const auto straight = hn::And(good, hn::Lt(hn::Abs(bend), hn::Set(d, 1e-4)));
    const auto nearly = hn::And(straight, hn::Le(foreseen, hn::Mul(allowed, hn::Set(d, 0.01))));
    const auto done = hn::Or(there, nearly);
    s.last_residual.set(size);
    s.x.set(hn::IfThenElse(there, x, to));
    s.last_step.set(hn::Abs(hn::Sub(to, x)));
    return hn::VecFromMask(d, done);
}

/// Searches for n scalars, each among components of its own.
HWY_INLINE void search(Search& s, const Components* of, int64_t n) {
    const DW d;
    const VW first = hn::MulAdd(s.spread.get(), quantile(s.start_lower.get(), s.start_upper.get()), s.centre.get());
    s.x.set(hn::Min(hn::Max(first, s.low.get()), s.high.get()));
    s.last_step.set(hn::Sub(s.high.get(), s.low.get()));
    s.last_residual.set(hn::Set(d, 1e-300));
    bool any_far = false, any = false;
    for (int64_t lane = 0; lane < n; ++lane) {
        any_far |= s.far[lane] && s.active[lane];
        any |= s.active[lane];
    }
    for (int i = 0; i < kMostEvaluations && any; ++i) {
        Lanes before = s.x, done;
        for (int64_t lane = 0; lane < n; ++lane) {
            if (!s.active[lane]) continue;
            ++s.evaluations[lane];
            if (s.far[lane])
                evaluate_far(of[lane], s, lane);
            else
                evaluate(of[lane], s, lane);
        }
        done.set(hn::IfThenElseZero(hn::MaskFromVec(step(s, any_far)), hn::Set(d, 1.0)));
        any = false;
        for (int64_t lane = 0; lane < n; ++lane) {
            if (!s.active[lane])
                s.x.of[lane] = before.of[lane];
            else if (done.of[lane] != 0)
                s.active[lane] = false;
            any |= s.active[lane];
        }
    }
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
