// Scalar after scalar as the header has it, everything in logarithms.
#include "normal.h"

namespace noema::reference {

namespace {

/// The mixture of one token as it stands before a scalar.
template <class A>
struct Posterior {
    std::vector<A> log_weight, sigma;
    const View& mean;
    bool finite = true;

    template <class P>
    Posterior(const P& p, int64_t r) : mean(p.mean) {
        for (int64_t k = 0; k < p.mean.shape[0]; ++k) {
            log_weight.push_back(get<A>(p.logits, r, k));
            sigma.push_back(std::exp(get<A>(p.log_sigma, k)));
            finite = finite && std::isfinite(sigma[k]);
            for (int64_t i = 0; i < p.mean.shape[1]; ++i) finite = finite && std::isfinite(get<A>(p.mean, k, i));
        }
        finite = finite && std::isfinite(normalise());
    }
    size_t size() const { return sigma.size(); }
    A distance(A z, int64_t i, size_t k) const { return (z - get<A>(mean, static_cast<int64_t>(k), i)) / sigma[k]; }
    /// What is subtracted.
    A normalise() {
        const A all = log_sum_exp(log_weight);
        for (A& w : log_weight) w -= all;
        return all;
    }
    /// Goes past scalar i; its log p.
    A pass(A z, int64_t i) {
        for (size_t k = 0; k < size(); ++k) log_weight[k] += log_density_at(distance(z, i, k)) - std::log(sigma[k]);
        return normalise();
    }
    /// The logarithms of the components' shares of F (side 1) or 1 - F (side -1); weights as they stand.
    std::vector<A> tails(const std::vector<A>& weight, A z, int64_t i, int side) const {
        std::vector<A> t = weight;
        for (size_t k = 0; k < size(); ++k) t[k] += log_normal(static_cast<A>(side) * distance(z, i, k));
        return t;
    }
};

template <class A>
Status mixture_rosenblatt_loop(const MixtureRosenblatt& p) {
    for (int64_t r = 0; r < p.z.shape[0]; ++r) {
        Posterior<A> posterior(p, r);
        A density = 0, det = 0;
        for (int64_t i = 0; i < p.z.shape[1]; ++i) {
            const A z = get<A>(p.z, r, i);
            const std::vector<A> weight = posterior.log_weight;
            const A u =
                quantile(log_sum_exp(posterior.tails(weight, z, i, 1)), log_sum_exp(posterior.tails(weight, z, i, -1)));
            const A log_p = posterior.pass(z, i);
            density += log_p;
            det += log_p - log_density_at(u);
            if (p.u) set<A>(p.u, static_cast<A>(on_grid(static_cast<double>(u), p.grid)), r, i);
        }
        if (p.log_density) set<A>(p.log_density, density, r);
        if (p.log_det) set<A>(p.log_det, det, r);
    }
    return {};
}

template <class A>
A optional(const View& v, int64_t r) {
    return v ? get<A>(v, r) : 0;
}

/// What scalar i passes on: its gradient by the logarithm of every weight it met, and directly by every distance.
template <class A>
struct Scalar {
    std::vector<A> by_weight, by_distance, distance;

    Scalar(const Posterior<A>& posterior, A z, int64_t i, A d_u, A d_log_det) {
        const std::vector<A> weight = posterior.log_weight, lower = posterior.tails(weight, z, i, 1),
                             upper = posterior.tails(weight, z, i, -1);
        const A log_lower = log_sum_exp(lower), log_upper = log_sum_exp(upper), u = quantile(log_lower, log_upper);
        const bool below = log_lower <= log_upper;
        const A log_tail = below ? log_lower : log_upper, mills = std::exp(log_tail - log_density_at(u));
        const A upstream = d_u + u * d_log_det;  // - log N(u; 0, 1) = u² / 2 + constant
        for (size_t k = 0; k < posterior.size(); ++k) {
            const A x = posterior.distance(z, i, k);
            const A share = std::exp((below ? lower : upper)[k] - log_tail) - std::exp(weight[k]);
            by_weight.push_back((below ? 1 : -1) * upstream * mills * share);
            by_distance.push_back(upstream * std::exp(weight[k] + log_density_at(x) - log_density_at(u)));
            distance.push_back(x);
        }
    }
};

// With x_ki = (z_i - mean_ki) / sigma_k and log a_ki = logit_k - sum_{j < i} (x_kj² / 2 + log sigma_k) - ...: whatever comes after
// scalar j moves x_kj by -x_kj times its gradient by log a_k.
template <class A>
void backward_row(const MixtureRosenblattBackward& p, int64_t r) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    const A d_log_det = optional<A>(p.d_log_det, r), w = optional<A>(p.d_log_density, r) + d_log_det;
    Posterior<A> posterior(p, r);
    std::vector<A> pi, post;
    for (const A x : posterior.log_weight) pi.push_back(std::exp(x));
    std::vector<Scalar<A>> scalars;
    for (int64_t i = 0; i < d; ++i) {
        const A z = get<A>(p.z, r, i);
        scalars.emplace_back(posterior, z, i, p.d_u ? get<A>(p.d_u, r, i) : 0, d_log_det);
        posterior.pass(z, i);
        set<A>(p.d_z, 0, r, i);
    }
    for (const A x : posterior.log_weight) post.push_back(std::exp(x));
    for (int64_t k = 0; k < K; ++k) {
        A later = w * post[k], by_log_sigma = 0;
        for (int64_t j = d - 1; j >= 0; --j) {
            const Scalar<A>& s = scalars[j];
            const A x = s.distance[k], by_x = s.by_distance[k] - x * later;
            add<A>(p.d_z, by_x / posterior.sigma[k], r, j);
            if (p.d_mean) add<A>(p.d_mean, -by_x / posterior.sigma[k], k, j);
            by_log_sigma -= later + x * by_x;
            later += s.by_weight[k];
        }
        if (p.d_log_sigma) add<A>(p.d_log_sigma, by_log_sigma, k);
        set<A>(p.d_logits, later - w * pi[k], r, k);
    }
}

template <class A>
Status mixture_rosenblatt_backward_loop(const MixtureRosenblattBackward& p) {
    for (int64_t r = 0; r < p.z.shape[0]; ++r) backward_row<A>(p, r);
    return {};
}

constexpr int kHalvings = 200;

/// The mixture's quantile lies between those of its components; it is found by halving, on the smaller tail of u.
template <class A>
A invert(const Posterior<A>& posterior, A u, int64_t i) {
    const std::vector<A> weight = posterior.log_weight;
    A low = std::numeric_limits<A>::infinity(), high = -low, z = 0;
    for (size_t k = 0; k < posterior.size(); ++k) {
        if (weight[k] == -std::numeric_limits<A>::infinity()) continue;
        const A own = get<A>(posterior.mean, static_cast<int64_t>(k), i) + posterior.sigma[k] * u;
        low = std::min(low, own);
        high = std::max(high, own);
    }
    const int side = u <= 0 ? 1 : -1;
    const A goal = log_normal(u <= 0 ? u : -u);
    for (int n = 0; n < kHalvings; ++n) {
        z = low + (high - low) / 2;
        const A tail = log_sum_exp(posterior.tails(weight, z, i, side));
        ((side > 0 ? tail < goal : tail > goal) ? low : high) = z;
    }
    return z;
}

template <class A>
Status mixture_rosenblatt_inverse_loop(const MixtureRosenblattInverse& p) {
    const int64_t d = p.u.shape[1];
    for (int64_t r = 0; r < p.u.shape[0]; ++r) {
        Posterior<A> posterior(p, r);
        int64_t i = 0;
        for (; i < d && posterior.finite && std::isfinite(get<A>(p.u, r, i)); ++i) {
            const A found = invert(posterior, get<A>(p.u, r, i), i);
            const A z = static_cast<A>(on_grid(static_cast<double>(found), p.grid));
            set<A>(p.z, z, r, i);
            posterior.pass(z, i);
        }
        if (p.failed) set<A>(p.failed, static_cast<A>(d - i), r);
        if (p.evaluations) set<A>(p.evaluations, static_cast<A>(i * kHalvings), r);
        for (; i < d; ++i) set<A>(p.z, std::numeric_limits<A>::quiet_NaN(), r, i);
    }
    return {};
}

template <class A>
Status mixture_rosenblatt_draw_loop(const MixtureRosenblattDraw& p) {
    for (int64_t r = 0; r < p.z.shape[0]; ++r) {
        const Posterior<A> posterior(p, r);
        const A uniform = get<A>(p.uniform, r);
        size_t k = 0;
        A sum = std::exp(posterior.log_weight[0]);
        while (sum < uniform && k + 1 < posterior.size()) sum += std::exp(posterior.log_weight[++k]);
        for (int64_t i = 0; i < p.z.shape[1]; ++i)
            set<A>(p.z, get<A>(p.mean, static_cast<int64_t>(k), i) + posterior.sigma[k] * get<A>(p.normal, r, i), r, i);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(mixture_rosenblatt, MixtureRosenblatt)
NOEMA_REFERENCE_OP(mixture_rosenblatt_backward, MixtureRosenblattBackward)
NOEMA_REFERENCE_OP(mixture_rosenblatt_inverse, MixtureRosenblattInverse)
NOEMA_REFERENCE_OP(mixture_rosenblatt_draw, MixtureRosenblattDraw)

}  // namespace noema::reference
