// The point where a one-dimensional mixture's F reaches P(u), P the normal distribution: the cpu backend's guarded Halley search
// (probit_root-inl.h there). A search is run by some threads together, which all hold its state: `me.sum` and `me.most` go over them,
// `of.each(f)` calls f(Component) for a thread's own components, `of.log_all` is the logarithm of all exp(log_weight). Threads of a warp stay
// together.
#pragma once

#include "mixture_cdf.h"

namespace noema::cuda {

/// Beyond this u tails are sums in logarithms: 1e-23 leaves room for components whose weight is tiny.
constexpr float kFar = 10.0f;
/// Halving alone needs 24 evaluations per factor 2^24 between the bracket and the scale of its components.
constexpr int kMostEvaluations = 128;

struct Component {
    float log_weight, weight, mean, scale, inverse;  // weights are normalised
};

struct Bracket {
    float low, high;
};

// The mixture's quantile lies between its components' quantiles of the same level. Components without weight do not count,
// unless u is so far out that logarithms decide.
template <class Of, class Me>
__device__ __forceinline__ Bracket bracket_of(const Of& of, const Me& me, float u) {
    const float least = fabsf(u) > kFar ? -FLT_MAX : -87.3f;
    float low = FLT_MAX, high = -FLT_MAX, size = 0;
    of.each([&](const Component& c) {
        const float reach = c.scale * u, own = c.mean + reach;
        if (!(c.log_weight >= least)) return;
        low = min(low, own);
        high = max(high, own);
        size = max(size, fabsf(c.mean) + fabsf(reach));
    });
    const float rounding = 4e-7f * me.most(size);
    return {-me.most(-low) - rounding, me.most(high) + rounding};
}

/// Mass and mass times scale of the components whose means lie in (from, to].
struct Part {
    float mass, spread;
};
template <class Of, class Me>
__device__ __forceinline__ Part part_of(const Of& of, const Me& me, float from, float to) {
    Part p{0, 0};
    of.each([&](const Component& c) {
        if (!(c.mean > from && c.mean <= to)) return;
        p.mass += c.weight;
        p.spread = fmaf(c.weight, c.scale, p.spread);
    });
    return {me.sum(p.mass), me.sum(p.spread)};
}

// The start: the range of the means is halved towards where the cumulative weight crosses P(u), until it is no wider than four
// scales of the components in it; these are taken for one normal distribution (their mean and variance), and that is inverted at what
// is left of the level.
template <class Of, class Me>
__device__ __forceinline__ float start_of(const Of& of, const Me& me, float u) {
    constexpr int kMostHalvings = 6;
    const Normal goal = normal(u);
    float from = FLT_MAX, to = -FLT_MAX, before = 0, after = 0;
    of.each([&](const Component& c) {
        if (!(c.weight > 0)) return;
        from = min(from, c.mean);
        to = max(to, c.mean);
    });
    from = -me.most(-from);
    to = me.most(to);
    from -= 1e-6f * fabsf(from) + FLT_MIN;  // open on this side
    Part part = part_of(of, me, from, to);
    for (int i = 0; i < kMostHalvings; ++i) {
        bool wide = (to - from) * part.mass > 4 * part.spread;
        if (!__any_sync(kAllLanes, wide)) break;
        const float middle = 0.5f * from + 0.5f * to;
        const Part left = part_of(of, me, from, middle), right{part.mass - left.mass, part.spread - left.spread};
        const bool go_left = before + left.mass >= goal.below;
        const Part next = go_left ? left : right;
        wide = wide && next.mass > 1e-6f;
        if (!wide) continue;
        (go_left ? to : from) = middle;
        (go_left ? after : before) += go_left ? right.mass : left.mass;
        part = next;
    }
    const float origin = 0.5f * from + 0.5f * to;  // moments about it do not cancel
    float mass = 0, first = 0, second = 0;
    of.each([&](const Component& c) {
        if (!(c.mean > from && c.mean <= to)) return;
        const float off = c.mean - origin;
        mass += c.weight;
        first = fmaf(c.weight, off, first);
        second = fmaf(c.weight, fmaf(off, off, c.scale * c.scale), second);
    });
    const float inverse = 1.0f / me.sum(mass), shift = me.sum(first) * inverse;
    const float variance = fmaf(-shift, shift, me.sum(second) * inverse);
    // Next to a part's ends what other components reach over counts for more than this one's tail.
    const float end = before + after > 0 ? 1e-3f : 1e-37f;
    const float lower = (goal.below - before) * inverse, upper = (goal.above - after) * inverse;
    const float level = quantile(lower > end ? lower : end, upper > end ? upper : end);
    return origin + shift + sqrtf(variance > 0 ? variance : 0) * level;
}

/// Tails, density and its derivative at x (the last two without 1 / sqrt(2 pi)), each times exp of its exponent.
struct Sums {
    float below, above, density, slope;
    Exponents top;
};
template <class Of, class Me>
__device__ __forceinline__ Sums evaluate(const Of& of, const Me& me, float x) {
    Sums s{0, 0, 0, 0, {0, 0, 0}};
    of.each([&](const Component& c) {
        const float at = (x - c.mean) * c.inverse, a = bounded(at, 14.0f), e = bell(a);
        const float tail = tail_factor(a) * e * c.weight, rest = c.weight - tail, own = c.weight * e * c.inverse;
        s.below += at < 0 ? tail : rest;
        s.above += at < 0 ? rest : tail;
        s.density += own;
        s.slope = fmaf(-own * c.inverse, copysignf(a, at), s.slope);
    });
    // Where a tail is under all floats the search is far from done; its side is what counts.
    return {max(me.sum(s.below), 1e-36f), max(me.sum(s.above), 1e-36f), me.sum(s.density), me.sum(s.slope), s.top};
}

/// The same relative to the largest terms.
template <class Of, class Me>
__device__ __forceinline__ Sums evaluate_far(const Of& of, const Me& me, float x) {
    Exponents top{-FLT_MAX, -FLT_MAX, -FLT_MAX};
    of.each([&](const Component& c) {
        const Exponents e = exponents_of(c.log_weight, within_squares((x - c.mean) * c.inverse));
        top = {max(top.density, e.density), max(top.below, e.below), max(top.above, e.above)};
    });
    top = {me.most(top.density), me.most(top.below), me.most(top.above)};
    Sums s{0, 0, 0, 0, top};
    of.each([&](const Component& c) {
        const float at = within_squares((x - c.mean) * c.inverse);
        const Exponents r = relative_to(top, c.log_weight, at, c.inverse);
        s.below += r.below;
        s.above += r.above;
        s.density += r.density;
        s.slope = fmaf(-r.density * c.inverse, at, s.slope);
    });
    const float all = of.log_all;
    return {me.sum(s.below),
            me.sum(s.above),
            me.sum(s.density),
            me.sum(s.slope),
            {top.density - all, top.below - all, top.above - all}};
}

struct Search {
    float u, x, low, high, last_step;
    bool far;
};

/// Halley's step on g = P^-1(F(x)) - u, or half the bracket where that would leave it or does not shrink. True when x is found.
__device__ __forceinline__ bool step(Search& s, const Sums& at) {
    bool lower = at.below <= at.above;
    float z, tilt = 0;
    if (s.far) {
        const float log_below = logf(at.below) + at.top.below, log_above = logf(at.above) + at.top.above;
        lower = log_below <= log_above;
        z = quantile_of_log(log_below, log_above);
        tilt = at.top.density - (lower ? at.top.below : at.top.above);
    } else {
        z = quantile(at.below, at.above);
    }
    const float g = z - s.u;
    const float ratio = 0.39894228040f * mills_ratio(fabsf(z)) * expf(tilt) / (lower ? at.below : at.above);
    const float rate = at.density * ratio;  // g'
    // Half of g g'' / g'², g'' / g'² = p' / (p g') + z. Limited: far from the root it means nothing.
    const float bend = min(max(0.5f * g * (at.slope / (at.density * rate) + z), -1.0f), 0.5f);
    const float halley = g / rate / (1.0f - bend), next = s.x - halley;
    (g < 0 ? s.low : s.high) = s.x;
    const float middle = 0.5f * s.low + 0.5f * s.high;
    const bool good = 2.0f * fabsf(halley) <= s.last_step && next > s.low && next < s.high;
    // Tails are right to some 3e-7, quantiles to 2e-7 of themselves. Where floats lie farther apart than that the search ends when
    // the step is less than one, or nothing is left between the ends.
    if (fabsf(g) <= fmaf(fabsf(s.u), 3e-7f, 1e-6f) || next == s.x || middle <= s.low || middle >= s.high) return true;
    const float to = good ? next : middle;
    s.last_step = fabsf(to - s.x);
    s.x = to;
    return false;
}

}  // namespace noema::cuda
