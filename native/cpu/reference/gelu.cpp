#include "reference.h"

namespace noema::reference {

namespace {

constexpr double kPi = 3.14159265358979323846;

template <class A>
A tanh_of(A x) {
    return std::tanh(static_cast<A>(std::sqrt(2 / kPi)) * (x + static_cast<A>(0.044715) * x * x * x));
}

template <class A>
A value(A x, Activation form) {
    if (form == Activation::gelu_tanh) return static_cast<A>(0.5) * x * (1 + tanh_of(x));
    return static_cast<A>(0.5) * x * (1 + std::erf(x * static_cast<A>(std::sqrt(0.5))));
}

template <class A>
A slope(A x, Activation form) {
    if (form == Activation::gelu_tanh) {
        const A t = tanh_of(x);
        const A inner = static_cast<A>(std::sqrt(2 / kPi)) * (1 + static_cast<A>(3 * 0.044715) * x * x);
        return static_cast<A>(0.5) * (1 + t) + (t * t == 1 ? 0 : static_cast<A>(0.5) * x * (1 - t * t) * inner);
    }
    const A density = std::exp(static_cast<A>(-0.5) * x * x) / static_cast<A>(std::sqrt(2 * kPi));
    return static_cast<A>(0.5) * (1 + std::erf(x * static_cast<A>(std::sqrt(0.5)))) + x * density;
}

template <class A>
Status gelu_loop(const Gelu& p) {
    for (int64_t r = 0; r < p.x.shape[0]; ++r)
        for (int64_t f = 0; f < p.x.shape[1]; ++f) set<A>(p.y, value(get<A>(p.x, r, f), p.form), r, f);
    return {};
}

template <class A>
Status gelu_backward_loop(const GeluBackward& p) {
    for (int64_t r = 0; r < p.x.shape[0]; ++r)
        for (int64_t f = 0; f < p.x.shape[1]; ++f)
            set<A>(p.d_x, get<A>(p.d_y, r, f) * slope(get<A>(p.x, r, f), p.form), r, f);
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(gelu, Gelu)
NOEMA_REFERENCE_OP(gelu_backward, GeluBackward)

}  // namespace noema::reference
