#include <algorithm>

#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
struct Schedule {
    A rate, unbias_m, unbias_v;
};

template <class A>
A unbias(float beta, int64_t step) {
    return static_cast<A>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step))));
}

template <class A>
Schedule<A> schedule(const AdamW& p) {
    if (p.schedule) return {get<A>(p.schedule, 0), get<A>(p.schedule, 1), get<A>(p.schedule, 2)};
    return {static_cast<A>(p.rate), unbias<A>(p.beta1, p.step), unbias<A>(p.beta2, p.step)};
}

template <class A>
A gradient_factor(const AdamW& p) {
    const A scale = static_cast<A>(p.gradient_scale);
    if (!p.norm || p.max_norm <= 0) return scale;
    return scale * std::min(A{1}, static_cast<A>(p.max_norm) / get<A>(p.norm, 0));
}

template <class A>
Status adamw_loop(const AdamW& p) {
    if (p.norm && !std::isfinite(get<A>(p.norm, 0))) return {};
    const A factor = gradient_factor<A>(p), beta1 = p.beta1, beta2 = p.beta2, ema = p.ema_decay;
    const Schedule<A> now = schedule<A>(p);
    for (int64_t i = 0; i < p.parameter.shape[0]; ++i) {
        const A g = get<A>(p.gradient, i) * factor, w = get<A>(p.parameter, i);
        const A m = beta1 * get<A>(p.m, i) + (1 - beta1) * g, v = beta2 * get<A>(p.v, i) + (1 - beta2) * g * g;
        const A update = m * now.unbias_m / (std::sqrt(v * now.unbias_v) + static_cast<A>(p.epsilon));
        const A moved = w - now.rate * (update + static_cast<A>(p.weight_decay) * w);
        set<A>(p.m, m, i);
        set<A>(p.v, v, i);
        set<A>(p.parameter, moved, i);
        if (p.average) set<A>(p.average, ema * get<A>(p.average, i) + (1 - ema) * moved, i);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(adamw, AdamW)

}  // namespace noema::reference
