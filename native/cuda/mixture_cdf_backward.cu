// mixture_cdf_backward: the sums again, then every component's gradients from its shares of them. Terms stay in registers in
// between while a thread has no more than eight.
#include "cuda.h"
#include "mixture_cdf.h"
#include "noema/ops/mixture_cdf.h"

namespace noema::cuda {

namespace {

struct Backward {
    MixtureGrid of;
    const float *h, *d_u, *d_log_density, *d_log_det;  // the last three may be null
    float *d_h, *d_parameters;
    int64_t h_stride, d_u_stride, d_h_stride, d_row_stride, d_scalar_stride;
};

/// What a component's gradients are made of, alike for all of a scalar.
struct Upstream {
    float by_share;  // of a component's share of the smaller tail
    float d_log_p;
    float by_slope;               // of u times du/dh
    float weight, tail, density;  // one over the sums
    bool lower;
};

__device__ __forceinline__ Upstream upstream_of(const Backward& p, const MyScalar& me, const MixtureSums& s) {
    const Mapped m = map_of(s);
    const float d_log_det = p.d_log_det ? p.d_log_det[me.row] : 0.0f;
    const float d_log_p = (p.d_log_density ? p.d_log_density[me.row] : 0.0f) + d_log_det;
    const float d_u = fmaf(m.u, d_log_det, p.d_u ? p.d_u[me.row * p.d_u_stride + me.i] : 0.0f), share = d_u * m.mills;
    return {m.lower ? share : -share,
            d_log_p,
            d_u * expf(m.log_slope),
            1.0f / s.weight,
            1.0f / (m.lower ? s.below : s.above),
            1.0f / s.density,
            m.lower};
}

/// Writes the gradients of component k; returns that of its mean.
__device__ __forceinline__ float store_gradients(const Upstream& up, const Term& t, float* to, int K, int k) {
    const float pi = t.weight * up.weight, q = t.density * up.density, x = t.distance * t.inverse;
    const float share = (up.lower ? t.below : t.above) * up.tail;
    const float mean = fmaf(up.d_log_p, x * t.inverse, -up.by_slope);
    const float raw = fmaf(up.d_log_p, fmaf(x, x, -1.0f), -up.by_slope * t.distance) * t.slope;
    const float d_mean = q == 0 ? q : q * mean;  // x² may be infinite there
    to[k] = fmaf(up.by_share, share - pi, up.d_log_p * (q - pi));
    to[K + k] = d_mean;
    to[2 * K + k] = q == 0 ? q : q * raw;
    return d_mean;
}

template <int kKept>
__global__ void __launch_bounds__(kMixtureThreads, 2) mixture_cdf_backward_scalars(Backward p) {
    const MyScalar me(p.of);
    const MyComponents<kKept> components(p.of, me);
    const float h = p.h[me.row * p.h_stride + me.i];
    Term kept[kKept > 0 ? kKept : 1] = {};
    const MixtureSums sums = sums_of(components, me, h, [&](int j, int, const Term& t) {
        if constexpr (kKept > 0) kept[j] = t;
    });
    const Upstream up = upstream_of(p, me, sums);
    float* to = p.d_parameters + me.row * p.d_row_stride + me.i * p.d_scalar_stride;
    float d_h = 0;
    components.each([&](int j, int k, float logit, float mean, float raw) {
        const Term t = kKept > 0 && !sums.rare ? kept[j] : term_of(sums, logit, mean, raw, h);
        if (me.exists) d_h -= store_gradients(up, t, to, p.of.K, k);
    });
    d_h = me.sum(d_h);
    if (me.writes) p.d_h[me.row * p.d_h_stride + me.i] = d_h;
}

Status run(const MixtureCdfBackward& p, const Stream& stream, Workspace) {
    const Backward b{.of = mixture_grid(p.parameters),
                     .h = p.h.as<float>(),
                     .d_u = p.d_u.as<float>(),
                     .d_log_density = p.d_log_density.as<float>(),
                     .d_log_det = p.d_log_det.as<float>(),
                     .d_h = p.d_h.as<float>(),
                     .d_parameters = p.d_parameters.as<float>(),
                     .h_stride = p.h.stride[0],
                     .d_u_stride = p.d_u.stride[0],
                     .d_h_stride = p.d_h.stride[0],
                     .d_row_stride = p.d_parameters.stride[0],
                     .d_scalar_stride = p.d_parameters.stride[1]};
    return with_kept(b.of, [&](auto kept) {
        return launch("mixture_cdf_backward", stream, b.of.grid(), mixture_cdf_backward_scalars<decltype(kept)::value>,
                      b);
    });
}

}  // namespace

Op<MixtureCdfBackward> mixture_cdf_backward_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
