#include <algorithm>
#include <vector>

#include "reference.h"

namespace noema::reference {

namespace {

/// Head h of token t of sequence b.
struct Place {
    int64_t b, t, h;
};

template <class A>
A dot(const View& x, const View& y, const Place& at, int64_t m) {
    A sum = 0;
    for (int64_t c = 0; c < x.shape[3]; ++c) sum += get<A>(x, at.b, at.t, at.h, c) * get<A>(y, at.b, m, at.h, c);
    return sum;
}

template <class A>
std::vector<A> weights_of(const View& q, const View& k, const Place& at, float scale) {
    std::vector<A> weight(static_cast<size_t>(k.shape[1]));
    A most = -std::numeric_limits<A>::infinity(), total = 0;
    for (size_t m = 0; m < weight.size(); ++m) {
        weight[m] = static_cast<A>(scale) * dot<A>(q, k, at, static_cast<int64_t>(m));
        most = std::max(most, weight[m]);
    }
    for (A& w : weight) total += w = std::exp(w - most);
    for (A& w : weight) w /= total;
    return weight;
}

template <class F>
void each_place(const View& q, const F& f) {
    for (int64_t b = 0; b < q.shape[0]; ++b)
        for (int64_t t = 0; t < q.shape[1]; ++t)
            for (int64_t h = 0; h < q.shape[2]; ++h) f(Place{b, t, h});
}

template <class A>
Status cross_attention_loop(const CrossAttention& p) {
    each_place(p.q, [&](const Place& at) {
        const std::vector<A> weight = weights_of<A>(p.q, p.k, at, p.scale);
        for (size_t m = 0; p.weights && m < weight.size(); ++m)
            set<A>(p.weights, weight[m], at.b, at.t, at.h, static_cast<int64_t>(m));
        for (int64_t c = 0; c < p.q.shape[3]; ++c) {
            A sum = 0;
            for (size_t m = 0; m < weight.size(); ++m)
                sum += weight[m] * get<A>(p.v, at.b, static_cast<int64_t>(m), at.h, c);
            set<A>(p.out, sum, at.b, at.t, at.h, c);
        }
    });
    return {};
}

// With P the weights: d_v = Pᵀ d_out, d_P = d_out vᵀ, d_score = P (d_P - sum(P d_P)), and the score is scale q kᵀ.
template <class A>
void backward_row(const CrossAttentionBackward& p, const Place& at) {
    const std::vector<A> weight = weights_of<A>(p.q, p.k, at, p.scale);
    std::vector<A> d_weight(weight.size());
    A delta = 0;
    for (size_t m = 0; m < weight.size(); ++m) {
        d_weight[m] = dot<A>(p.d_out, p.v, at, static_cast<int64_t>(m));
        delta += weight[m] * d_weight[m];
    }
    for (size_t i = 0; i < weight.size(); ++i) {
        const int64_t m = static_cast<int64_t>(i);
        const A d_score = static_cast<A>(p.scale) * weight[i] * (d_weight[i] - delta);
        for (int64_t c = 0; c < p.q.shape[3]; ++c) {
            if (p.d_q) add<A>(p.d_q, d_score * get<A>(p.k, at.b, m, at.h, c), at.b, at.t, at.h, c);
            if (p.d_k) add<A>(p.d_k, d_score * get<A>(p.q, at.b, at.t, at.h, c), at.b, m, at.h, c);
            if (p.d_v) add<A>(p.d_v, weight[i] * get<A>(p.d_out, at.b, at.t, at.h, c), at.b, m, at.h, c);
        }
    }
}

template <class A>
Status cross_attention_backward_loop(const CrossAttentionBackward& p) {
    for (const View* d : {&p.d_q, &p.d_k, &p.d_v})
        if (*d)
            each_place(*d, [&](const Place& at) {
                for (int64_t c = 0; c < d->shape[3]; ++c) set<A>(*d, A{0}, at.b, at.t, at.h, c);
            });
    each_place(p.q, [&](const Place& at) { backward_row<A>(p, at); });
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(cross_attention, CrossAttention)
NOEMA_REFERENCE_OP(cross_attention_backward, CrossAttentionBackward)

}  // namespace noema::reference
