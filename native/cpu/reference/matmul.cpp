#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A product(const Matmul& p, int64_t m, int64_t n) {
    const int64_t K = p.a.shape[p.transpose_a ? 0 : 1];
    A sum = 0;
    for (int64_t k = 0; k < K; ++k) {
        const A a = p.transpose_a ? get<A>(p.a, k, m) : get<A>(p.a, m, k);
        const A b = p.transpose_b ? get<A>(p.b, n, k) : get<A>(p.b, k, n);
        sum += operand<A>(a, p.precision) * operand<A>(b, p.precision);
    }
    return sum;
}

template <class A>
A activated(A x, Activation activation) {
    constexpr A half = A(0.5), inv_sqrt2 = A(0.70710678118654752440), sqrt_2_over_pi = A(0.79788456080286535588);
    switch (activation) {
        case Activation::none: return x;
        case Activation::gelu_erf: return half * x * (A{1} + std::erf(x * inv_sqrt2));
        case Activation::gelu_tanh:
            return half * x * (A{1} + std::tanh(sqrt_2_over_pi * (x + A(0.044715) * x * x * x)));
    }
    return x;
}

template <class A>
Status matmul_loop(const Matmul& p) {
    for (int64_t m = 0; m < p.c.shape[0]; ++m) {
        for (int64_t n = 0; n < p.c.shape[1]; ++n) {
            A y = product<A>(p, m, n);
            if (p.bias) y += get<A>(p.bias, n);
            y = activated<A>(y, p.activation);
            if (p.gate) {
                const A g = get<A>(p.gate, m, n);
                y *= g / (A{1} + std::exp(-g));
            }
            if (p.residual) y += get<A>(p.residual, m, n);
            set<A>(p.c, p.accumulate ? get<A>(p.c, m, n) + y : y, m, n);
        }
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(matmul, Matmul)

}  // namespace noema::reference
