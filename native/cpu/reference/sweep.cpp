#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
Status sweep_loop(const Sweep& p) {
    for (int64_t b = 0; b < p.next.shape[0]; ++b) {
        if (!(get<A>(p.change, b) > static_cast<A>(p.tolerance))) continue;
        A most = 0;
        const int64_t n = p.next.shape[1], run = p.fixed ? n / p.fixed.shape[1] : n;
        for (int64_t i = 0; i < n; ++i) {
            if (p.fixed && p.fixed.at<uint8_t>(b)[i / run]) continue;
            const A moved = std::abs(get<A>(p.next, b, i) - get<A>(p.state, b, i));
            if (std::isnan(moved)) most = std::numeric_limits<A>::infinity();
            if (moved > most) most = moved;
            set<A>(p.state, get<A>(p.next, b, i), b, i);
        }
        set<A>(p.change, most, b);
        p.sweeps.as<int32_t>()[b] += 1;
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(sweep, Sweep)

}  // namespace noema::reference
