#include <algorithm>

#include "reference.h"

namespace noema::reference {

namespace {

/// Visible keys of a query: every mask of the contract leaves one run [first, last).
struct Run {
    int64_t first, last;
};

Run visible(const AttentionMask& mask, int64_t b, int64_t i, int64_t Tk) {
    Run run{0, Tk};
    const int64_t position = mask.query_offset + i;
    if (mask.key_start) run.first = std::max(run.first, get<int64_t>(mask.key_start, b));
    if (mask.key_end) run.last = std::min(run.last, get<int64_t>(mask.key_end, b));
    if (mask.causal) run.last = std::min(run.last, position + 1);
    if (mask.causal && mask.window > 0) run.first = std::max(run.first, position - mask.window + 1);
    return run;
}

/// Sum over D of x[b,i,h,:] y[b,j,g,:], both as operands of a product.
template <class A>
A dot(const View& x, const View& y, const int64_t (&at)[5], Precision precision) {
    const auto [b, i, h, j, g] = at;
    A sum = 0;
    for (int64_t c = 0; c < x.shape[3]; ++c)
        sum += operand(get<A>(x, b, i, h, c), precision) * operand(get<A>(y, b, j, g, c), precision);
    return sum;
}

template <class A>
void attention_row(const Attention& p, int64_t b, int64_t i, int64_t h) {
    const int64_t g = h / (p.q.shape[2] / p.k.shape[2]), D = p.q.shape[3];
    const Run run = visible(p.mask, b, i, p.k.shape[1]);
    const auto score = [&](int64_t j) {
        return static_cast<A>(p.scale) * dot<A>(p.q, p.k, {b, i, h, j, g}, p.precision);
    };
    A most = -std::numeric_limits<A>::infinity(), total = 0;
    for (int64_t j = run.first; j < run.last; ++j) most = std::max(most, score(j));
    for (int64_t j = run.first; j < run.last; ++j) total += std::exp(score(j) - most);
    for (int64_t c = 0; c < D; ++c) set<A>(p.out, A{0}, b, i, h, c);
    for (int64_t j = run.first; j < run.last; ++j) {
        const A probability = operand(std::exp(score(j) - most) / total, p.precision);
        for (int64_t c = 0; c < D; ++c)
            add<A>(p.out, probability * operand(get<A>(p.v, b, j, g, c), p.precision), b, i, h, c);
    }
    if (p.lse) set<A>(p.lse, total > 0 ? most + std::log(total) : most, b, h, i);
}

template <class A>
Status attention_loop(const Attention& p) {
    for (int64_t b = 0; b < p.q.shape[0]; ++b)
        for (int64_t i = 0; i < p.q.shape[1]; ++i)
            for (int64_t h = 0; h < p.q.shape[2]; ++h) attention_row<A>(p, b, i, h);
    return {};
}

template <class A>
void zero(const View& v) {
    for (int64_t b = 0; b < v.shape[0]; ++b)
        for (int64_t i = 0; i < v.shape[1]; ++i)
            for (int64_t h = 0; h < v.shape[2]; ++h)
                for (int64_t c = 0; c < v.shape[3]; ++c) set<A>(v, A{0}, b, i, h, c);
}

// With P the probabilities: d_v = Pᵀ d_out, d_P = d_out vᵀ, d_score = P (d_P - sum(d_out out)), and the score is
// scale q kᵀ.
template <class A>
void backward_row(const AttentionBackward& p, int64_t b, int64_t i, int64_t h) {
    const int64_t g = h / (p.q.shape[2] / p.k.shape[2]), D = p.q.shape[3];
    const Run run = visible(p.mask, b, i, p.k.shape[1]);
    const Precision precision = p.precision;
    const A scale = static_cast<A>(p.scale), lse = get<A>(p.lse, b, h, i);
    A delta = 0;
    for (int64_t c = 0; c < D; ++c) delta += get<A>(p.d_out, b, i, h, c) * get<A>(p.out, b, i, h, c);
    for (int64_t j = run.first; j < run.last; ++j) {
        const A probability = std::exp(scale * dot<A>(p.q, p.k, {b, i, h, j, g}, precision) - lse);
        const A d_probability = dot<A>(p.d_out, p.v, {b, i, h, j, g}, precision);
        const A d_score = operand(scale * probability * (d_probability - delta), precision);
        for (int64_t c = 0; c < D; ++c) {
            const A d_out = operand(get<A>(p.d_out, b, i, h, c), precision);
            add<A>(p.d_q, d_score * operand(get<A>(p.k, b, j, g, c), precision), b, i, h, c);
            add<A>(p.d_k, d_score * operand(get<A>(p.q, b, i, h, c), precision), b, j, g, c);
            add<A>(p.d_v, operand(probability, precision) * d_out, b, j, g, c);
        }
    }
}

template <class A>
Status attention_backward_loop(const AttentionBackward& p) {
    for (const View* d : {&p.d_q, &p.d_k, &p.d_v}) zero<A>(*d);
    for (int64_t b = 0; b < p.q.shape[0]; ++b)
        for (int64_t i = 0; i < p.q.shape[1]; ++i)
            for (int64_t h = 0; h < p.q.shape[2]; ++h) backward_row<A>(p, b, i, h);
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(attention, Attention)
NOEMA_REFERENCE_OP(attention_backward, AttentionBackward)

}  // namespace noema::reference
