#include "reference.h"

namespace noema::reference {

namespace {

double position(const Rope& p, int64_t b, int64_t t) {
    return p.positions ? get<double>(p.positions, b, t) : static_cast<double>(p.position_offset + t);
}

// The angle is a double in either accumulator: no f32 can hold position 100000 times a frequency.
template <class A>
void turn_head(const Rope& p, int64_t b, int64_t t, int64_t h) {
    const int64_t D = p.x.shape[3];
    const bool halves = p.layout == RopeLayout::half_split;
    for (int64_t i = 0; i < D / 2; ++i) {
        const double angle = position(p, b, t) * std::pow(p.theta, -2.0 * static_cast<double>(i) / D);
        const A c = static_cast<A>(std::cos(angle)), s = static_cast<A>(p.inverse ? -std::sin(angle) : std::sin(angle));
        const int64_t first = halves ? i : 2 * i, second = halves ? i + D / 2 : 2 * i + 1;
        const A x = get<A>(p.x, b, t, h, first), z = get<A>(p.x, b, t, h, second);
        set<A>(p.y, x * c - z * s, b, t, h, first);
        set<A>(p.y, z * c + x * s, b, t, h, second);
    }
}

template <class A>
Status rope_loop(const Rope& p) {
    for (int64_t b = 0; b < p.x.shape[0]; ++b)
        for (int64_t t = 0; t < p.x.shape[1]; ++t)
            for (int64_t h = 0; h < p.x.shape[2]; ++h) turn_head<A>(p, b, t, h);
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(rope, Rope)

}  // namespace noema::reference
