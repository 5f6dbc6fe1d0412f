// The point where a one-dimensional mixture's F reaches P(u), P the normal distribution: the cpu backend's guarded Halley search
// (probit_root-inl.h there), in double: between two heavy components F climbs by so little that no float of u leads back. A search is run
// by some threads together, which all hold its state: `me.sum` and `me.most` go over them, `of.each(f)` calls f(Component) for a thread's
// own components, `of.log_all` is the logarithm of all exp(log_weight). Threads of a warp stay together.
#pragma once

#include <cfloat>

#include "mixture_cdf.h"

namespace noema::cuda {

/// Beyond this u tails are sums in logarithms: 1e-197 leaves room for components whose weight is tiny.
constexpr double kFar = 30;
/// Halving alone needs 53 evaluations per factor 2^53 between the bracket and the scale of its components.
constexpr int kMostEvaluations = 256;
/// What is below this is taken for it: logarithms decide there, or only the side counts.
constexpr double kTiny = 1e-290;

struct Component {
    double log_weight, weight, mean, scale, inverse;  // weights are normalised
};

struct Bracket {
    double low, high;
};

// The mixture's quantile lies between its components' quantiles of the same level. Components without weight do not count,
// unless u is so far out that logarithms decide.
template <class Of, class Me>
__device__ __forceinline__ Bracket bracket_of(const Of& of, const Me& me, double u) {
    const double least = fabs(u) > kFar ? -DBL_MAX : -700;
    double low = DBL_MAX, high = -DBL_MAX, size = 0;
    of.each([&](const Component& c) {
        const double reach = c.scale * u, own = c.mean + reach;
        if (!(c.log_weight >= least)) return;
        low = min(low, own);
        high = max(high, own);
        size = max(size, fabs(c.mean) + fabs(reach));
    });
    const double rounding = 1e-15 * me.most(size);
    return {-me.most(-low) - rounding, me.most(high) + rounding};
}

/// Mass and mass times scale of the components whose means lie in (from, to].
struct Part {
    double mass, spread;
};
template <class Of, class Me>
__device__ __forceinline__ Part part_of(const Of& of, const Me& me, double from, double to) {
    Part p{0, 0};
    of.each([&](const Component& c) {
        if (!(c.mean > from && c.mean <= to)) return;
        p.mass += c.weight;
        p.spread = fma(c.weight, c.scale, p.spread);
    });
    return {me.sum(p.mass), me.sum(p.spread)};
}

// The start: the range of the means is halved towards where the cumulative weight crosses P(u), until it is no wider than four
// scales of the components in it; these are taken for one normal distribution (their mean and variance), and that is inverted at what
// is left of the level. (Levels are floats: no better than the guess that they lead to.)
template <class Of, class Me>
__device__ __forceinline__ double start_of(const Of& of, const Me& me, double u) {
    constexpr int kMostHalvings = 6;
    const Normal goal = normal(static_cast<float>(u));
    double from = DBL_MAX, to = -DBL_MAX, before = 0, after = 0;
    of.each([&](const Component& c) {
        if (!(c.weight > 0)) return;
        from = min(from, c.mean);
        to = max(to, c.mean);
    });
    from = -me.most(-from);
    to = me.most(to);
    from -= 1e-6 * fabs(from) + FLT_MIN;  // open on this side
    Part part = part_of(of, me, from, to);
    for (int i = 0; i < kMostHalvings; ++i) {
        bool wide = (to - from) * part.mass > 4 * part.spread;
        if (!__any_sync(kAllLanes, wide)) break;
        const double middle = 0.5 * from + 0.5 * to;
        const Part left = part_of(of, me, from, middle), right{part.mass - left.mass, part.spread - left.spread};
        const bool go_left = before + left.mass >= goal.below;
        const Part next = go_left ? left : right;
        wide = wide && next.mass > 1e-6;
        if (!wide) continue;
        (go_left ? to : from) = middle;
        (go_left ? after : before) += go_left ? right.mass : left.mass;
        part = next;
    }
    const double origin = 0.5 * from + 0.5 * to;  // moments about it do not cancel
    double mass = 0, first = 0, second = 0;
    of.each([&](const Component& c) {
        if (!(c.mean > from && c.mean <= to)) return;
        const double off = c.mean - origin;
        mass += c.weight;
        first = fma(c.weight, off, first);
        second = fma(c.weight, fma(off, off, c.scale * c.scale), second);
    });
    const double inverse = 1.0 / me.sum(mass), shift = me.sum(first) * inverse;
    const double variance = fma(-shift, shift, me.sum(second) * inverse);
    // Next to a part's ends what other components reach over counts for more than this one's tail.
    const float end = before + after > 0 ? 1e-3f : 1e-37f;
    const float lower = static_cast<float>((goal.below - before) * inverse),
                upper = static_cast<float>((goal.above - after) * inverse);
    const float level = quantile(lower > end ? lower : end, upper > end ? upper : end);
    return origin + shift + sqrt(variance > 0 ? variance : 0) * level;
}

/// Tails, density and its derivative at x (the last two without 1 / sqrt(2 pi)), each times exp of its exponent.
struct Sums {
    double below, above, density, slope;
    Exponents<double> top;
};
template <class Of, class Me>
__device__ __forceinline__ Sums evaluate(const Of& of, const Me& me, double x) {
    Sums s{0, 0, 0, 0, {0, 0, 0}};
    of.each([&](const Component& c) {
        const double at = (x - c.mean) * c.inverse, a = bounded(at, kBellEnd<double>), e = bell(a);
        const double tail = tail_factor(a) * e * c.weight, rest = c.weight - tail, own = c.weight * e * c.inverse;
        s.below += at < 0 ? tail : rest;
        s.above += at < 0 ? rest : tail;
        s.density += own;
        s.slope = fma(-own * c.inverse, copysign(a, at), s.slope);
    });
    // Where a tail is under all numbers the search is far from done; its side is what counts.
    const auto some = [](double tail) { return tail < kTiny ? kTiny : tail; };
    return {some(me.sum(s.below)), some(me.sum(s.above)), me.sum(s.density), me.sum(s.slope), s.top};
}

/// The same relative to the largest terms.
template <class Of, class Me>
__device__ __forceinline__ Sums evaluate_far(const Of& of, const Me& me, double x) {
    Exponents<double> top{-DBL_MAX, -DBL_MAX, -DBL_MAX};
    of.each([&](const Component& c) {
        const Exponents<double> e = exponents_of(c.log_weight, within_squares((x - c.mean) * c.inverse));
        top = {max(top.density, e.density), max(top.below, e.below), max(top.above, e.above)};
    });
    top = {me.most(top.density), me.most(top.below), me.most(top.above)};
    Sums s{0, 0, 0, 0, top};
    of.each([&](const Component& c) {
        const double at = within_squares((x - c.mean) * c.inverse);
        const Exponents<double> r = relative_to(top, c.log_weight, at, c.inverse);
        s.below += r.below;
        s.above += r.above;
        s.density += r.density;
        s.slope = fma(-r.density * c.inverse, at, s.slope);
    });
    const double all = of.log_all;
    return {me.sum(s.below),
            me.sum(s.above),
            me.sum(s.density),
            me.sum(s.slope),
            {top.density - all, top.below - all, top.above - all}};
}

__device__ __forceinline__ Quantile quantile(const Sums& s) {
    return quantile(s.below, s.above, s.top.below, s.top.above);
}

struct Search {
    double u, x, low, high, last_step;
    bool far, halved = true;  // halved: the last step was not Halley's
    int evaluations = 0;

    __device__ __forceinline__ Search(double u, double start, const Bracket& b)
        : u(u),
          x(min(max(start, b.low), b.high)),
          low(b.low),
          high(b.high),
          last_step(b.high - b.low),
          far(fabs(u) > kFar) {}
};

/// Halley's step on g = P^-1(F(x)) - u, or half the bracket where that would leave it or does not shrink. True when x is found.
__device__ __forceinline__ bool step(Search& s, const Sums& at) {
    ++s.evaluations;
    const Quantile z = quantile(at);
    const bool lower = z.u < 0;
    const double g = z.u - s.u;
    if (g != g) {
        s.x = NAN;
        return true;
    }
    const double tilt = s.far ? exp(at.top.density - (lower ? at.top.below : at.top.above)) : 1;
    const double rate = 0.39894228040143268 * at.density * z.mills * tilt / (lower ? at.below : at.above);  // g'
    // Half of g g'' / g'², g'' / g'² = p' / (p g') + z. Limited: far from the root it means nothing.
    const double bend = min(max(0.5 * g * (at.slope / (at.density * rate) + z.u), -1.0), 0.5);
    const double halley = g / rate / (1.0 - bend), next = s.x - halley;
    (g < 0 ? s.low : s.high) = s.x;
    const double middle = 0.5 * s.low + 0.5 * s.high;
    const bool inside = next > s.low && next < s.high;
    // Steps shrink by their third power: one that is much shorter than the one before leaves less of g than the square of the ratio, and
    // what it leads to needs no looking at. (Where F is flat, a residual at the bottom of all roundings would still be some way of x.)
    const double ratio = fabs(halley) / s.last_step, size = 1 + fabs(s.u);
    const bool close = inside && ratio <= 1.0 / 64 && !s.halved;
    // Tails and quantiles are right to some 1e-15. Where numbers lie farther apart than that the search ends when the step is less
    // than one, or nothing is left between the ends.
    const bool found = close ? fabs(g) * (ratio * ratio) <= 1e-16 * size : fabs(g) <= 1e-14 * size;
    const bool done = found || next == s.x || middle <= s.low || middle >= s.high;
    if (done && !close) return true;
    s.halved = !inside || ratio > 0.5;
    const double to = s.halved ? middle : next;
    s.last_step = fabs(to - s.x);
    s.x = to;
    return done;
}

/// The scalar's way through the flow at x: u, and log p(x).
struct Point {
    double u, log_density;
};
template <class Of, class Me>
__device__ __forceinline__ Point point_at(const Of& of, const Me& me, double x) {
    Sums at = evaluate(of, me, x);
    Quantile z = quantile(at);
    const bool far = fabs(z.u) > kFar, thin = far || at.density < kTiny;
    if (__any_sync(kAllLanes, thin)) {
        const Sums by_logarithms = evaluate_far(of, me, x);
        if (far) z = quantile(by_logarithms);
        if (thin) at = by_logarithms;
    }
    return {z.u, log(0.39894228040143268 * at.density) + at.top.density};
}

}  // namespace noema::cuda
