#include "head.h"

namespace noema::reference {

namespace {

// d_logit = row_weight (softmax - onehot), then what it says about each factor of hidden . weight + bias.
template <class A>
void add_gradients(const CrossEntropy& p, int64_t r, const std::vector<A>& d_logits) {
    for (int64_t v = 0; v < p.weight.view.shape[0]; ++v) {
        const A d_logit = operand(d_logits[v], p.precision);
        for (int64_t c = 0; c < p.hidden.shape[1]; ++c) {
            if (p.d_hidden) add<A>(p.d_hidden, d_logit * operand(get<A>(p.weight.view, v, c), p.precision), r, c);
            if (p.d_weight) add<A>(p.d_weight, d_logit * operand(get<A>(p.hidden, r, c), p.precision), v, c);
        }
        if (p.d_bias) add<A>(p.d_bias, d_logits[v], v);
    }
}

template <class A>
Status cross_entropy_loop(const CrossEntropy& p) {
    const int64_t R = p.hidden.shape[0], C = p.hidden.shape[1];
    for (int64_t r = 0; r < R; ++r) {
        const int64_t target = p.targets.as<int32_t>()[r];
        for (int64_t c = 0; p.d_hidden && c < C; ++c) set<A>(p.d_hidden, A{0}, r, c);
        if (target < 0) {
            set<A>(p.loss, A{0}, r);
            if (p.lse) set<A>(p.lse, A{0}, r);
            continue;
        }
        std::vector<A> logits = row_logits<A>(p.hidden, r, p.weight, p.bias, p.excluded_id, p.precision);
        const A lse = is_broken(logits) ? std::numeric_limits<A>::quiet_NaN() : log_sum_exp(logits);
        set<A>(p.loss, lse - logits[target], r);
        if (p.lse) set<A>(p.lse, lse, r);
        if (!p.d_hidden && !p.d_weight && !p.d_bias) continue;
        const A scale = p.row_weight ? get<A>(p.row_weight, r) : A{1};
        for (size_t v = 0; v < logits.size(); ++v)
            logits[v] = scale * (std::exp(logits[v] - lse) - (static_cast<int64_t>(v) == target ? A{1} : A{0}));
        add_gradients(p, r, logits);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(cross_entropy, CrossEntropy)

}  // namespace noema::reference
