#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A start(ReduceKind kind) {
    constexpr A infinity = std::numeric_limits<A>::infinity();
    return kind == ReduceKind::max ? -infinity : kind == ReduceKind::min ? infinity : A{0};
}

template <class A>
A step(ReduceKind kind, A sum, A x) {
    switch (kind) {
        case ReduceKind::sum:
        case ReduceKind::mean: return sum + x;
        case ReduceKind::max: return x > sum ? x : sum;
        case ReduceKind::min: return x < sum ? x : sum;
        case ReduceKind::sum_squares: return sum + x * x;
        case ReduceKind::count_non_finite: return std::isfinite(x) ? sum : sum + 1;
    }
    return sum;
}

template <class A>
Status reduce_loop(const Reduce& p) {
    const bool by_row = p.axis == ReduceAxis::columns;
    const int64_t n = p.x.shape[by_row ? 1 : 0];
    for (int64_t i = 0; i < p.y.shape[0]; ++i) {
        A sum = start<A>(p.kind);
        for (int64_t j = 0; j < n; ++j) sum = step(p.kind, sum, by_row ? get<A>(p.x, i, j) : get<A>(p.x, j, i));
        if (p.kind == ReduceKind::mean) sum /= static_cast<A>(n);
        set<A>(p.y, p.accumulate ? get<A>(p.y, i) + sum : sum, i);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(reduce, Reduce)

}  // namespace noema::reference
