#include "reference.h"

namespace noema::reference {

namespace {

constexpr double kHalfLog2Pi = 0.91893853320467274178;

template <class A>
Status codebook_encode_loop(const CodebookEncode& p) {
    for (int64_t r = 0; r < p.z.shape[0]; ++r) {
        const int64_t k = p.ids.as<int32_t>()[r];
        const A sigma = std::exp(get<A>(p.log_sigma, k));
        for (int64_t i = 0; i < p.z.shape[1]; ++i)
            set<A>(p.z, get<A>(p.mean, k, i) + sigma * get<A>(p.eps, r, i), r, i);
    }
    return {};
}

template <class A>
Status codebook_encode_backward_loop(const CodebookEncodeBackward& p) {
    for (int64_t r = 0; r < p.d_z.shape[0]; ++r) {
        const int64_t k = p.ids.as<int32_t>()[r];
        const A sigma = std::exp(get<A>(p.log_sigma, k));
        A d_sigma = 0;
        for (int64_t i = 0; i < p.d_z.shape[1]; ++i) {
            add<A>(p.d_mean, get<A>(p.d_z, r, i), k, i);
            d_sigma += get<A>(p.d_z, r, i) * get<A>(p.eps, r, i);
        }
        add<A>(p.d_log_sigma, d_sigma * sigma, k);
    }
    return {};
}

/// |z_r - mean_k|² / sigma_k².
template <class A>
A distance(const View& z, const View& mean, const View& log_sigma, int64_t r, int64_t k) {
    const A sigma = std::exp(get<A>(log_sigma, k));
    A sum = 0;
    for (int64_t i = 0; i < z.shape[1]; ++i) {
        const A x = (get<A>(z, r, i) - get<A>(mean, k, i)) / sigma;
        sum += x * x;
    }
    return sum;
}

/// log N_k(z_r).
template <class P, class A>
A log_normal(const P& p, int64_t r, int64_t k) {
    const A d = static_cast<A>(p.z.shape[1]), half = static_cast<A>(0.5);
    return -half * distance<A>(p.z, p.mean, p.log_sigma, r, k) -
           d * (get<A>(p.log_sigma, k) + static_cast<A>(kHalfLog2Pi));
}

template <class A>
Status codebook_decode_loop(const CodebookDecode& p) {
    const int64_t V = p.mean.shape[0];
    for (int64_t r = 0; r < p.z.shape[0]; ++r) {
        int64_t best = 0;
        A most = -std::numeric_limits<A>::infinity(), sum = 0;
        for (int64_t k = 0; k < V; ++k) {
            const A x = log_normal<CodebookDecode, A>(p, r, k);
            if (x > most) most = x, best = k;
        }
        const A shift = most == -std::numeric_limits<A>::infinity() ? 0 : most;
        for (int64_t k = 0; k < V; ++k) sum += std::exp(log_normal<CodebookDecode, A>(p, r, k) - shift);
        if (p.log_sum) set<A>(p.log_sum, most + std::log(sum), r);
        if (p.best) p.best.as<int32_t>()[r] = static_cast<int32_t>(best);
        if (p.confidence) set<A>(p.confidence, sum > 0 ? 1 / sum : std::numeric_limits<A>::quiet_NaN(), r);
    }
    return {};
}

// d log_sum = sum_k p_k d log N_k, p_k = N_k / sum N.
template <class A>
Status codebook_decode_backward_loop(const CodebookDecodeBackward& p) {
    const int64_t V = p.mean.shape[0], d = p.mean.shape[1];
    for (int64_t r = 0; r < p.z.shape[0]; ++r) {
        const A w = get<A>(p.d_log_sum, r), log_sum = get<A>(p.log_sum, r);
        for (int64_t i = 0; i < d && !p.accumulate_z; ++i) set<A>(p.d_z, 0, r, i);
        for (int64_t k = 0; k < V; ++k) {
            const A share = w * std::exp(log_normal<CodebookDecodeBackward, A>(p, r, k) - log_sum);
            const A sigma = std::exp(get<A>(p.log_sigma, k));
            for (int64_t i = 0; i < d; ++i) {
                const A pull = share * (get<A>(p.mean, k, i) - get<A>(p.z, r, i)) / (sigma * sigma);
                add<A>(p.d_z, pull, r, i);
                add<A>(p.d_mean, -pull, k, i);
            }
            const A stretch = distance<A>(p.z, p.mean, p.log_sigma, r, k) - static_cast<A>(d);
            add<A>(p.d_log_sigma, share * stretch, k);
        }
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(codebook_encode, CodebookEncode)
NOEMA_REFERENCE_OP(codebook_encode_backward, CodebookEncodeBackward)
NOEMA_REFERENCE_OP(codebook_decode, CodebookDecode)
NOEMA_REFERENCE_OP(codebook_decode_backward, CodebookDecodeBackward)

}  // namespace noema::reference
