// mixture_cdf: a scalar's threads sum up its components; what belongs to rows is added afterwards.
#include "mixture_cdf.h"

#include "cuda.h"
#include "noema/ops/mixture_cdf.h"

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

struct Forward {
    MixtureGrid of;
    const float* h;
    float *u, *density, *slope;  // each may be null; the last two of every scalar
    int64_t h_stride, u_stride;
};

template <int kKept>
__global__ void __launch_bounds__(kMixtureThreads, 2) mixture_cdf_scalars(Forward p) {
    const MyScalar me(p.of);
    const MyComponents<kKept> components(p.of, me);
    const MixtureSums sums = sums_of(components, me, p.h[me.row * p.h_stride + me.i], [](int, int, const Term&) {});
    const Mapped m = map_of(sums);
    if (!me.writes) return;
    if (p.u) p.u[me.row * p.u_stride + me.i] = m.u;
    if (p.density) p.density[me.index] = m.log_density;
    if (p.slope) p.slope[me.index] = m.log_slope;
}

size_t workspace(const MixtureCdf& p, const Stream&) {
    const size_t one = workspace_bytes<float>(p.h.size());
    return (p.log_density ? one : 0) + (p.log_det ? one : 0);
}

Status run(const MixtureCdf& p, const Stream& stream, Workspace w) {
    const int64_t R = p.h.shape[0], c = p.h.shape[1];
    float* density = p.log_density ? w.take<float>(p.h.size()) : nullptr;
    float* slope = p.log_det ? w.take<float>(p.h.size()) : nullptr;
    const Forward f{
        mixture_grid(p.parameters), p.h.as<float>(), p.u.as<float>(), density, slope, p.h.stride[0], p.u.stride[0]};
    NOEMA_TRY(with_kept(f.of, [&](auto kept) {
        return launch("mixture_cdf", stream, f.of.grid(), mixture_cdf_scalars<decltype(kept)::value>, f);
    }));
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
