#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
Status scatter_loop(const Scatter& p) {
    for (int64_t r = 0; r < p.x.shape[0]; ++r) {
        const int32_t to = p.rows.as<int32_t>()[r];
        if (to < 0) continue;
        for (int64_t c = 0; c < p.x.shape[1]; ++c) set<A>(p.y, get<A>(p.x, r, c), to, c);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(scatter, Scatter)

}  // namespace noema::reference
