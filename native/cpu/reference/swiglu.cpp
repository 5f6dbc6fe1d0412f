#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A sigmoid(A x) {
    return A{1} / (A{1} + std::exp(-x));
}

template <class A>
Status swiglu_loop(const Swiglu& p) {
    for (int64_t r = 0; r < p.gate.shape[0]; ++r)
        for (int64_t f = 0; f < p.gate.shape[1]; ++f) {
            const A gate = get<A>(p.gate, r, f);
            set<A>(p.y, gate * sigmoid(gate) * get<A>(p.up, r, f), r, f);
        }
    return {};
}

template <class A>
Status swiglu_backward_loop(const SwigluBackward& p) {
    for (int64_t r = 0; r < p.gate.shape[0]; ++r)
        for (int64_t f = 0; f < p.gate.shape[1]; ++f) {
            const A gate = get<A>(p.gate, r, f), up = get<A>(p.up, r, f), d_y = get<A>(p.d_y, r, f);
            const A s = sigmoid(gate);
            set<A>(p.d_gate, d_y * up * s * (1 + gate * (1 - s)), r, f);
            set<A>(p.d_up, d_y * gate * s, r, f);
        }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(swiglu, Swiglu)
NOEMA_REFERENCE_OP(swiglu_backward, SwigluBackward)

}  // namespace noema::reference
