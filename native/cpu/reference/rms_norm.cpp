#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A mean_square(const View& x, int64_t r) {
    A sum = 0;
    for (int64_t c = 0; c < x.shape[1]; ++c) {
        const A value = get<A>(x, r, c);
        sum += value * value;
    }
    return sum / static_cast<A>(x.shape[1]);
}

template <class A>
Status rms_norm_loop(const RmsNorm& p) {
    for (int64_t r = 0; r < p.x.shape[0]; ++r) {
        const A inv_rms = A{1} / std::sqrt(mean_square<A>(p.x, r) + static_cast<A>(p.epsilon));
        for (int64_t c = 0; c < p.x.shape[1]; ++c) set<A>(p.y, get<A>(p.x, r, c) * inv_rms * get<A>(p.weight, c), r, c);
        if (p.inv_rms) set<A>(p.inv_rms, inv_rms, r);
    }
    return {};
}

// With n = x inv_rms: y = n w, so dn = dy w and dx = inv_rms (dn - n mean(dn n)).
template <class A>
Status rms_norm_backward_loop(const RmsNormBackward& p) {
    const int64_t C = p.x.shape[1];
    for (int64_t r = 0; r < p.x.shape[0]; ++r) {
        const A inv_rms = get<A>(p.inv_rms, r);
        A projection = 0;
        for (int64_t c = 0; c < C; ++c)
            projection += get<A>(p.d_y, r, c) * get<A>(p.weight, c) * get<A>(p.x, r, c) * inv_rms;
        projection /= static_cast<A>(C);
        for (int64_t c = 0; c < C; ++c) {
            const A n = get<A>(p.x, r, c) * inv_rms, d_y = get<A>(p.d_y, r, c);
            const A d_x = inv_rms * (d_y * get<A>(p.weight, c) - n * projection);
            set<A>(p.d_x, p.accumulate_x ? get<A>(p.d_x, r, c) + d_x : d_x, r, c);
            if (p.d_weight) add<A>(p.d_weight, d_y * n, c);
        }
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(rms_norm, RmsNorm)
NOEMA_REFERENCE_OP(rms_norm_backward, RmsNormBackward)

}  // namespace noema::reference
