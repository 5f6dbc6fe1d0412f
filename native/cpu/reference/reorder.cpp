#include "reference.h"

namespace noema::reference {

namespace {

/// The channel of x that P puts at channel k of y.
int64_t channel(ChannelOrder order, int64_t k, int64_t c) {
    const int64_t evens = (c + 1) / 2;
    switch (order) {
        case ChannelOrder::as_is: break;
        case ChannelOrder::even_odd: return k < evens ? 2 * k : 2 * (k - evens) + 1;
        case ChannelOrder::interleave: return k % 2 == 0 ? k / 2 : evens + k / 2;
    }
    return k;
}

/// Calls f(b, s, t): y's position s takes x's position t, none (-1) where `first` stands.
template <class F>
void each_position(const View& y, bool reverse, bool has_first, const F& f) {
    const int64_t S = y.shape[1];
    for (int64_t b = 0; b < y.shape[0]; ++b)
        for (int64_t s = 0; s < S; ++s) {
            const int64_t from = has_first ? s - 1 : s;
            f(b, s, from < 0 ? -1 : reverse ? S - 1 - from : from);
        }
}

template <class A>
Status reorder_loop(const Reorder& p) {
    const int64_t c = p.x.shape[2];
    each_position(p.y, p.reverse, !p.first.empty(), [&](int64_t b, int64_t s, int64_t t) {
        for (int64_t k = 0; k < c; ++k)
            set<A>(p.y, t < 0 ? get<A>(p.first, k) : get<A>(p.x, b, t, channel(p.channels, k, c)), b, s, k);
    });
    return {};
}

template <class A>
Status reorder_backward_loop(const ReorderBackward& p) {
    const int64_t S = p.d_x.shape[1], c = p.d_x.shape[2];
    if (!p.accumulate_x)
        for (int64_t b = 0; b < p.d_x.shape[0]; ++b)
            for (int64_t s = 0; s < S; ++s)
                for (int64_t k = 0; k < c; ++k) set<A>(p.d_x, A{0}, b, s, k);
    each_position(p.d_y, p.reverse, !p.d_first.empty(), [&](int64_t b, int64_t s, int64_t t) {
        for (int64_t k = 0; k < c; ++k)
            if (t < 0)
                add<A>(p.d_first, get<A>(p.d_y, b, s, k), k);
            else
                add<A>(p.d_x, get<A>(p.d_y, b, s, k), b, t, channel(p.channels, k, c));
    });
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(reorder, Reorder)
NOEMA_REFERENCE_OP(reorder_backward, ReorderBackward)

}  // namespace noema::reference
