#include "noema/rng.h"
#include "reference.h"

namespace noema::reference {

namespace {

/// Adam's step of one element, whose moments are m and v.
template <class A>
A adam(const PosteriorUpdate& p, A x, A gradient, const View (&moments)[2], int64_t b, int64_t i) {
    const A beta1 = p.beta1, beta2 = p.beta2;
    const A m = beta1 * get<A>(moments[0], b, i) + (1 - beta1) * gradient;
    const A v = beta2 * get<A>(moments[1], b, i) + (1 - beta2) * gradient * gradient;
    set<A>(moments[0], m, b, i);
    set<A>(moments[1], v, b, i);
    const auto unbias = [&](float beta) {
        return static_cast<A>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(p.step))));
    };
    const A root = std::sqrt(v * unbias(p.beta2));
    return x - static_cast<A>(p.rate) * (m * unbias(p.beta1) / (root + static_cast<A>(p.epsilon)));
}

template <class A>
void update(const PosteriorUpdate& p, int64_t b, int64_t i) {
    const A mean = get<A>(p.mean, b, i), log_variance = get<A>(p.log_variance, b, i), d_z = get<A>(p.d_z, b, i);
    const A kl_weight = p.kl_weight;
    set<A>(p.mean, adam<A>(p, mean, d_z + kl_weight * mean, {p.mean_m, p.mean_v}, b, i), b, i);
    if (p.constant_log_variance) return;
    const A slope = d_z * get<A>(p.eps, b, i) * std::exp(log_variance / 2);
    const A gradient = (slope + kl_weight * (std::exp(log_variance) - 1)) / 2;
    set<A>(p.log_variance, adam<A>(p, log_variance, gradient, {p.log_variance_m, p.log_variance_v}, b, i), b, i);
}

template <class A>
A normal_at(const PosteriorUpdate& p, int64_t b, int64_t i) {
    const uint64_t seed = static_cast<uint64_t>(p.seeds.as<int64_t>()[b]);
    const uint32_t row = static_cast<uint32_t>(i / kNormalRow), lane = static_cast<uint32_t>(i % kNormalRow);
    const auto uniform = [&](uint32_t at) {
        return static_cast<A>(rng_uniform(seed, RngStream::thought, static_cast<uint32_t>(p.draw), row, at));
    };
    const A radius = std::sqrt(-2 * std::log(uniform(lane / 2 * 2)));
    const A angle = static_cast<A>(6.283185307179586477) * uniform(lane / 2 * 2 + 1);
    return radius * (lane % 2 ? std::sin(angle) : std::cos(angle));
}

template <class A>
Status posterior_update_loop(const PosteriorUpdate& p) {
    for (int64_t b = 0; b < p.mean.shape[0]; ++b) {
        if (p.active && !p.active.as<uint8_t>()[b]) continue;
        A kl = 0, log_ratio = 0;
        for (int64_t i = 0; i < p.mean.shape[1]; ++i) {
            if (p.d_z) update<A>(p, b, i);
            const A mean = get<A>(p.mean, b, i), log_variance = get<A>(p.log_variance, b, i);
            const A eps = p.seeds ? normal_at<A>(p, b, i) : get<A>(p.next_eps, b, i);
            const A z = mean + eps * std::exp(log_variance / 2);
            if (p.seeds && p.next_eps) set<A>(p.next_eps, eps, b, i);
            set<A>(p.z, z, b, i);
            kl += (mean * mean + std::exp(log_variance) - log_variance - 1) / 2;
            log_ratio += (eps * eps + log_variance - z * z) / 2;
        }
        if (p.kl) set<A>(p.kl, kl, b);
        if (p.log_ratio) set<A>(p.log_ratio, log_ratio, b);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(posterior_update, PosteriorUpdate)

}  // namespace noema::reference
