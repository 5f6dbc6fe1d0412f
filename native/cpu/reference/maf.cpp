#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A elu(A x) {
    return x > 0 ? x : std::expm1(x);
}
template <class A>
A elu_slope(A x) {
    return x > 0 ? A{1} : std::exp(x);
}

template <class A>
A below(A x) {
    return std::erfc(-x * static_cast<A>(std::sqrt(0.5))) / 2;
}
template <class A>
A gelu_slope(A x) {
    return below(x) + x * std::exp(-x * x / 2) * static_cast<A>(0.39894228040143267794);
}

/// What goes into gelu: weight[j,e] · (x, elu(x), elu(-x)) + bias[j,e]. P: MafFeatures or its backward.
template <class A, class P>
A inner(const P& p, A x, int64_t j, int64_t e) {
    return get<A>(p.weight, j, e, 0) * x + get<A>(p.weight, j, e, 1) * elu(x) + get<A>(p.weight, j, e, 2) * elu(-x) +
           get<A>(p.bias, j, e);
}

template <class A>
Status maf_features_loop(const MafFeatures& p) {
    const int64_t E = p.bias.shape[1];
    for (int64_t r = 0; r < p.x.shape[0]; ++r)
        for (int64_t j = 0; j < p.bias.shape[0]; ++j)
            for (int64_t e = 0; e < E; ++e) {
                const A t = inner(p, get<A>(p.x, r, j), j, e);
                set<A>(p.y, t * below(t), r, j * E + e);
            }
    return {};
}

template <class A>
Status maf_features_backward_loop(const MafFeaturesBackward& p) {
    const int64_t E = p.bias.shape[1];
    for (int64_t r = 0; r < p.x.shape[0]; ++r)
        for (int64_t j = 0; j < p.bias.shape[0]; ++j)
            for (int64_t e = 0; e < E; ++e) {
                const A x = get<A>(p.x, r, j);
                const A d = get<A>(p.d_y, r, j * E + e) * gelu_slope(inner(p, x, j, e));
                add<A>(p.d_weight, d * x, j, e, 0);
                add<A>(p.d_weight, d * elu(x), j, e, 1);
                add<A>(p.d_weight, d * elu(-x), j, e, 2);
                add<A>(p.d_bias, d, j, e);
                const A slope = get<A>(p.weight, j, e, 0) + get<A>(p.weight, j, e, 1) * elu_slope(x) -
                                get<A>(p.weight, j, e, 2) * elu_slope(-x);
                add<A>(p.d_x, d * slope, r, j);
            }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(maf_features, MafFeatures)
NOEMA_REFERENCE_OP(maf_features_backward, MafFeaturesBackward)

}  // namespace noema::reference
