#include "reference.h"

namespace noema::reference {

namespace {

// Rounding a double to f32 and then to 16 bits could round a tie twice. Rounded to odd (towards zero, and the last bit
// set if anything was cut) the f32 still tells a tie from its neighbours.
float rounded_to_odd(double x) {
    const float near = static_cast<float>(x);
    if (x != x || static_cast<double>(near) == x) return near;
    const float below = std::fabs(static_cast<double>(near)) > std::fabs(x) ? std::nextafter(near, 0.0f) : near;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(below) | 1u);
}

template <class A>
Status cast_loop(const Cast& p) {
    const bool halves = dtype_size(p.y.dtype) == 2;
    for (int64_t r = 0; r < p.x.shape[0]; ++r)
        for (int64_t c = 0; c < p.x.shape[1]; ++c) {
            const double value = get<double>(p.x, r, c);
            set<double>(p.y, halves ? rounded_to_odd(value) : value, r, c);
        }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(cast, Cast)

}  // namespace noema::reference
