// mixture_cdf: a scalar's threads sum up its components; what belongs to rows is added afterwards. Wide states take the inverse's own
// function of its components, so that the inverse finds them again.
#include "mixture_cdf.h"

#include "common/states.h"
#include "cuda.h"
#include "noema/ops/mixture_cdf.h"
#include "prepared_components.h"

namespace noema::cuda {

namespace {

template <class T>
struct RowParts {
    const T* parts;
    T* out;
    int64_t R, c;
};

template <class T>
__global__ void __launch_bounds__(kMixtureThreads) row_sums(RowParts<T> p) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * kMixtureThreads + threadIdx.x;
    if (r >= p.R) return;
    double sum = 0;
    for (int64_t i = 0; i < p.c; ++i) sum += static_cast<double>(p.parts[r * p.c + i]);
    p.out[r] = static_cast<T>(sum);
}

template <class T>
struct Forward {
    MixtureGrid of;
    const T* h;
    T* u;                    // may be null
    float *density, *slope;  // likewise; of every scalar
    int64_t h_stride, u_stride;
    double grid;
};

template <int kKept>
__global__ void __launch_bounds__(kMixtureThreads, 2) mixture_cdf_scalars(Forward<float> p) {
    const MyScalar me(p.of);
    const MyComponents<kKept> components(p.of, me);
    const MixtureSums sums = sums_of(components, me, p.h[me.row * p.h_stride + me.i], [](int, int, const Term&) {});
    const Mapped m = map_of(sums);
    if (!me.writes) return;
    if (p.u) p.u[me.row * p.u_stride + me.i] = static_cast<float>(on_grid(m.u, p.grid));
    if (p.density) p.density[me.index] = m.log_density;
    if (p.slope) p.slope[me.index] = m.log_slope;
}

template <int kKept>
__global__ void __launch_bounds__(kMixtureThreads, 2) mixture_cdf_wide_scalars(Forward<double> p) {
    const MyScalar me(p.of);
    const MyComponents<kKept> components(p.of, me);
    const Prepared<kKept> of(components, me);
    const Point at = point_at(of, me, p.h[me.row * p.h_stride + me.i]);
    if (!me.writes) return;
    if (p.u) p.u[me.row * p.u_stride + me.i] = on_grid(at.u, p.grid);
    if (p.density) p.density[me.index] = static_cast<float>(at.log_density);
    if (p.slope)  // log p(h) - log N(u; 0, 1)
        p.slope[me.index] = static_cast<float>(fma(at.u, 0.5 * at.u, at.log_density) + 0.91893853320467274);
}

size_t workspace(const MixtureCdf& p, const Stream&) {
    const size_t one = workspace_bytes<float>(p.h.size());
    return (p.log_density ? one : 0) + (p.log_det ? one : 0);
}

template <class T>
Forward<T> forward_of(const MixtureCdf& p, float* density, float* slope) {
    return {mixture_grid(p.parameters), p.h.as<T>(), p.u.as<T>(), density, slope, p.h.stride[0], p.u.stride[0], p.grid};
}

Status scalars(const MixtureCdf& p, float* density, float* slope, const Stream& stream) {
    const MixtureGrid of = mixture_grid(p.parameters);
    return with_kept(of, [&](auto kept) {
        constexpr int kKept = decltype(kept)::value;
        if (p.h.dtype == DType::f64)
            return launch("mixture_cdf", stream, of.grid(), mixture_cdf_wide_scalars<kKept>,
                          forward_of<double>(p, density, slope));
        return launch("mixture_cdf", stream, of.grid(), mixture_cdf_scalars<kKept>,
                      forward_of<float>(p, density, slope));
    });
}

Status run(const MixtureCdf& p, const Stream& stream, Workspace w) {
    const int64_t R = p.h.shape[0], c = p.h.shape[1];
    float* density = p.log_density ? w.take<float>(p.h.size()) : nullptr;
    float* slope = p.log_det ? w.take<float>(p.h.size()) : nullptr;
    NOEMA_TRY(scalars(p, density, slope, stream));
    NOEMA_TRY(mixture_row_sums(density, p.log_density.as<float>(), R, c, stream));
    return mixture_row_sums(slope, p.log_det.as<float>(), R, c, stream);
}

}  // namespace

template <class T>
Status mixture_row_sums(const T* parts, T* out, int64_t R, int64_t c, const Stream& stream) {
    if (!out) return {};
    const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(R, kMixtureThreads))), .threads = kMixtureThreads};
    return launch("mixture_row_sums", stream, grid, row_sums<T>, RowParts<T>{parts, out, R, c});
}
template Status mixture_row_sums(const float*, float*, int64_t, int64_t, const Stream&);
template Status mixture_row_sums(const int32_t*, int32_t*, int64_t, int64_t, const Stream&);

Op<MixtureCdf> mixture_cdf_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
