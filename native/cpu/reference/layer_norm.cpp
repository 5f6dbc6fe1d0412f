#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A mean_of(const View& x, int64_t r) {
    A sum = 0;
    for (int64_t c = 0; c < x.shape[1]; ++c) sum += get<A>(x, r, c);
    return sum / static_cast<A>(x.shape[1]);
}

template <class A>
A variance_of(const View& x, int64_t r, A mean) {
    A sum = 0;
    for (int64_t c = 0; c < x.shape[1]; ++c) {
        const A centred = get<A>(x, r, c) - mean;
        sum += centred * centred;
    }
    return sum / static_cast<A>(x.shape[1]);
}

template <class A>
A or_else(const View& v, A fallback, int64_t c) {
    return v ? get<A>(v, c) : fallback;
}

template <class A>
Status layer_norm_loop(const LayerNorm& p) {
    for (int64_t r = 0; r < p.x.shape[0]; ++r) {
        const int64_t b = r / p.rows_per_sequence;
        const A mean = mean_of<A>(p.x, r);
        const A inv_std = A{1} / std::sqrt(variance_of(p.x, r, mean) + static_cast<A>(p.epsilon));
        for (int64_t c = 0; c < p.x.shape[1]; ++c) {
            const A n = (get<A>(p.x, r, c) - mean) * inv_std;
            A y = n * or_else<A>(p.weight, 1, c) + or_else<A>(p.bias, 0, c);
            if (p.scale) y = y * (1 + get<A>(p.scale, b, c)) + get<A>(p.shift, b, c);
            set<A>(p.y, y, r, c);
        }
        if (p.mean) set<A>(p.mean, mean, r), set<A>(p.inv_std, inv_std, r);
    }
    return {};
}

/// Element (r, c) of backward: the normalised value, and the gradients of y before adaLN and of n.
template <class A>
struct Element {
    A n, d_plain, d_n;
};

template <class A>
Element<A> element(const LayerNormBackward& p, int64_t r, int64_t c) {
    Element<A> e;
    e.n = (get<A>(p.x, r, c) - get<A>(p.mean, r)) * get<A>(p.inv_std, r);
    e.d_plain = get<A>(p.d_y, r, c) * (p.scale ? 1 + get<A>(p.scale, r / p.rows_per_sequence, c) : A{1});
    e.d_n = e.d_plain * or_else<A>(p.weight, 1, c);
    return e;
}

template <class A>
void add_parameter_gradients(const LayerNormBackward& p, int64_t r, int64_t c) {
    const int64_t b = r / p.rows_per_sequence;
    const Element<A> e = element<A>(p, r, c);
    const A d_y = get<A>(p.d_y, r, c);
    if (p.d_weight) add<A>(p.d_weight, e.d_plain * e.n, c);
    if (p.d_bias) add<A>(p.d_bias, e.d_plain, c);
    if (p.d_scale) add<A>(p.d_scale, d_y * (e.n * or_else<A>(p.weight, 1, c) + or_else<A>(p.bias, 0, c)), b, c);
    if (p.d_shift) add<A>(p.d_shift, d_y, b, c);
}

// n has zero mean and unit variance: dx = inv_std (dn - mean(dn) - n mean(dn n)).
template <class A>
void backward_row(const LayerNormBackward& p, int64_t r) {
    const int64_t C = p.x.shape[1];
    A mean = 0, projection = 0;
    for (int64_t c = 0; c < C; ++c) {
        const Element<A> e = element<A>(p, r, c);
        mean += e.d_n / static_cast<A>(C);
        projection += e.d_n * e.n / static_cast<A>(C);
    }
    for (int64_t c = 0; c < C; ++c) {
        add_parameter_gradients<A>(p, r, c);
        const Element<A> e = element<A>(p, r, c);
        const A d_x = get<A>(p.inv_std, r) * (e.d_n - mean - e.n * projection);
        set<A>(p.d_x, p.accumulate_x ? get<A>(p.d_x, r, c) + d_x : d_x, r, c);
    }
}

template <class A>
void clear(const View& v) {
    for (int64_t b = 0; v && b < v.shape[0]; ++b)
        for (int64_t c = 0; c < v.shape[1]; ++c) set<A>(v, 0, b, c);
}

template <class A>
Status layer_norm_backward_loop(const LayerNormBackward& p) {
    clear<A>(p.d_scale);
    clear<A>(p.d_shift);
    for (int64_t r = 0; r < p.x.shape[0]; ++r) backward_row<A>(p, r);
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(layer_norm, LayerNorm)
NOEMA_REFERENCE_OP(layer_norm_backward, LayerNormBackward)

}  // namespace noema::reference
