#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
Status global_norm_loop(const GlobalNorm& p) {
    A sum = 0;
    for (int64_t i = 0; i < p.x.shape[0]; ++i) sum += get<A>(p.x, i) * get<A>(p.x, i);
    set<A>(p.norm, static_cast<A>(p.scale) * std::sqrt(sum), 0);
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(global_norm, GlobalNorm)

}  // namespace noema::reference
