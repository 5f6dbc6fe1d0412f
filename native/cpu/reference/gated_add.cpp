#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
Status gated_add_loop(const GatedAdd& p) {
    for (int64_t r = 0; r < p.x.shape[0]; ++r)
        for (int64_t c = 0; c < p.x.shape[1]; ++c) {
            const A gate = get<A>(p.gate, r / p.rows_per_sequence, c);
            set<A>(p.y, get<A>(p.x, r, c) + gate * get<A>(p.f, r, c), r, c);
        }
    return {};
}

template <class A>
Status gated_add_backward_loop(const GatedAddBackward& p) {
    const int64_t R = p.f.shape[0], C = p.f.shape[1];
    for (int64_t b = 0; p.d_gate && b < p.d_gate.shape[0]; ++b)
        for (int64_t c = 0; c < C; ++c) set<A>(p.d_gate, 0, b, c);
    for (int64_t r = 0; r < R; ++r)
        for (int64_t c = 0; c < C; ++c) {
            const int64_t b = r / p.rows_per_sequence;
            const A d_y = get<A>(p.d_y, r, c);
            if (p.d_gate) add<A>(p.d_gate, d_y * get<A>(p.f, r, c), b, c);
            set<A>(p.d_f, d_y * get<A>(p.gate, b, c), r, c);
        }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(gated_add, GatedAdd)
NOEMA_REFERENCE_OP(gated_add_backward, GatedAddBackward)

}  // namespace noema::reference
