// Everything in logarithms, term by term as the header has it; the quantile and the inverse by bisection.
#include "normal.h"

namespace noema::reference {

namespace {

/// The mixture of one scalar, and what is known of it at a point h.
template <class A>
struct Mixture {
    std::vector<A> log_weight, mean, scale, slope;  // slope: of the soft clip
    bool finite = true;

    Mixture(const View& parameters, int64_t r, int64_t i) {
        const int64_t K = parameters.shape[2] / 3;
        for (int64_t k = 0; k < K; ++k) {
            const A raw = get<A>(parameters, r, i, 2 * K + k), clip = std::tanh(raw / 4);
            log_weight.push_back(get<A>(parameters, r, i, k));
            mean.push_back(get<A>(parameters, r, i, K + k));
            scale.push_back(std::exp(4 * clip));
            slope.push_back(1 - clip * clip);
            finite = finite && std::isfinite(log_weight[k]) && std::isfinite(mean[k]) && std::isfinite(raw);
        }
        const A all = log_sum_exp(log_weight);
        for (A& w : log_weight) w -= all;
    }
    size_t size() const { return mean.size(); }

    template <class F>
    std::vector<A> terms(A h, const F& of_distance) const {
        std::vector<A> t(size());
        for (size_t k = 0; k < size(); ++k) t[k] = log_weight[k] + of_distance((h - mean[k]) / scale[k], k);
        return t;
    }
    std::vector<A> log_below(A h) const {
        return terms(h, [](A x, size_t) { return log_normal(x); });
    }
    std::vector<A> log_above(A h) const {
        return terms(h, [](A x, size_t) { return log_normal(-x); });
    }
    std::vector<A> log_densities(A h) const {
        return terms(h, [this](A x, size_t k) { return log_density_at(x) - std::log(scale[k]); });
    }
};

template <class A>
Status mixture_cdf_loop(const MixtureCdf& p) {
    for (int64_t r = 0; r < p.h.shape[0]; ++r) {
        A density = 0, det = 0;
        for (int64_t i = 0; i < p.h.shape[1]; ++i) {
            const A h = get<A>(p.h, r, i);
            const Mixture<A> mixture(p.parameters, r, i);
            const A u = quantile(log_sum_exp(mixture.log_below(h)), log_sum_exp(mixture.log_above(h)));
            const A log_p = log_sum_exp(mixture.log_densities(h));
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

/// With T the smaller tail: d u = ± d T / density(u), d log p by the posterior q of the components, and
/// - log N(u; 0, 1) = u² / 2 + constant.
template <class A>
void backward_at(const MixtureCdfBackward& p, int64_t r, int64_t i) {
    const A h = get<A>(p.h, r, i);
    const Mixture<A> mixture(p.parameters, r, i);
    const std::vector<A> below = mixture.log_below(h), above = mixture.log_above(h),
                         densities = mixture.log_densities(h);
    const A log_lower = log_sum_exp(below), log_upper = log_sum_exp(above), log_p = log_sum_exp(densities);
    const A u = quantile(log_lower, log_upper);
    const bool lower = log_lower <= log_upper;
    const A log_tail = lower ? log_lower : log_upper, mills = std::exp(log_tail - log_density_at(u));
    const A du_dh = std::exp(log_p - log_density_at(u));
    const A d_log_det = optional<A>(p.d_log_det, r), d_log_p = optional<A>(p.d_log_density, r) + d_log_det;
    const A d_u = (p.d_u ? get<A>(p.d_u, r, i) : 0) + u * d_log_det;
    const int64_t K = static_cast<int64_t>(mixture.size());
    A d_h = 0;
    for (int64_t k = 0; k < K; ++k) {
        const A s = mixture.scale[k], x = (h - mixture.mean[k]) / s, weight = std::exp(mixture.log_weight[k]);
        const A tail = std::exp((lower ? below : above)[k] - log_tail), q = std::exp(densities[k] - log_p);
        const A by_logit = (lower ? 1 : -1) * d_u * mills * (tail - weight) + d_log_p * (q - weight);
        const A by_mean = q == 0 ? 0 : q * (d_log_p * x / s - d_u * du_dh);
        const A by_log_scale = q == 0 ? 0 : q * (d_log_p * (x * x - 1) - d_u * du_dh * x * s);
        set<A>(p.d_parameters, by_logit, r, i, k);
        set<A>(p.d_parameters, by_mean, r, i, K + k);
        set<A>(p.d_parameters, by_log_scale * mixture.slope[k], r, i, 2 * K + k);
        d_h -= by_mean;
    }
    set<A>(p.d_h, d_h, r, i);
}

template <class A>
Status mixture_cdf_backward_loop(const MixtureCdfBackward& p) {
    for (int64_t r = 0; r < p.h.shape[0]; ++r)
        for (int64_t i = 0; i < p.h.shape[1]; ++i) backward_at<A>(p, r, i);
    return {};
}

constexpr int kHalvings = 200;

/// The mixture's quantile lies between its components' ones; it is found by halving, on the smaller tail of u.
template <class A>
bool invert(const Mixture<A>& mixture, A u, A& h) {
    A low = std::numeric_limits<A>::infinity(), high = -low;
    for (size_t k = 0; k < mixture.size(); ++k) {
        const A own = mixture.mean[k] + mixture.scale[k] * u;
        low = std::min(low, own);
        high = std::max(high, own);
    }
    h = std::numeric_limits<A>::quiet_NaN();
    if (!mixture.finite || !std::isfinite(u)) return false;
    const A goal = log_normal(u <= 0 ? u : -u);
    for (int i = 0; i < kHalvings; ++i) {
        h = low + (high - low) / 2;
        const bool too_low =
            u <= 0 ? log_sum_exp(mixture.log_below(h)) < goal : log_sum_exp(mixture.log_above(h)) > goal;
        (too_low ? low : high) = h;
    }
    return true;
}

template <class A>
Status mixture_cdf_inverse_loop(const MixtureCdfInverse& p) {
    for (int64_t r = 0; r < p.u.shape[0]; ++r) {
        int failed = 0, evaluations = 0;
        for (int64_t i = 0; i < p.u.shape[1]; ++i) {
            A h;
            const bool found = invert(Mixture<A>(p.parameters, r, i), get<A>(p.u, r, i), h);
            failed += !found;
            evaluations += found ? kHalvings : 0;
            set<A>(p.h, static_cast<A>(on_grid(static_cast<double>(h), p.grid)), r, i);
        }
        if (p.failed) set<A>(p.failed, static_cast<A>(failed), r);
        if (p.evaluations) set<A>(p.evaluations, static_cast<A>(evaluations), r);
    }
    return {};
}

template <class A>
Status mixture_cdf_draw_loop(const MixtureCdfDraw& p) {
    for (int64_t r = 0; r < p.h.shape[0]; ++r)
        for (int64_t i = 0; i < p.h.shape[1]; ++i) {
            const Mixture<A> mixture(p.parameters, r, i);
            const A uniform = get<A>(p.uniform, r, i);
            size_t k = 0;
            A sum = std::exp(mixture.log_weight[0]);
            while (sum < uniform && k + 1 < mixture.size()) sum += std::exp(mixture.log_weight[++k]);
            set<A>(p.h, mixture.mean[k] + mixture.scale[k] * get<A>(p.normal, r, i), r, i);
        }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(mixture_cdf, MixtureCdf)
NOEMA_REFERENCE_OP(mixture_cdf_backward, MixtureCdfBackward)
NOEMA_REFERENCE_OP(mixture_cdf_inverse, MixtureCdfInverse)
NOEMA_REFERENCE_OP(mixture_cdf_draw, MixtureCdfDraw)

}  // namespace noema::reference
