// affine: rows are short, so 1 to 32 neighbouring threads share one, a quad each at a time. Backward and inverse: a thread per
// quad.
#include "affine.h"

#include "common/normal.h"
#include "common/quads.h"
#include "common/reduce.h"
#include "common/states.h"
#include "cuda.h"
#include "noema/ops/affine.h"

namespace noema::cuda {

namespace {

constexpr double kHalfLogTau = 0.91893853320467274;  // log(2 pi) / 2

template <class T>
struct Forward {
    const T* h;
    const float* parameters;
    T* u;                          // may be null
    float *log_density, *log_det;  // likewise
    int64_t h_stride, parameters_stride, u_stride, rows, c;
    double grid;
    int width;  // threads per row, a power of two
};

/// Log-scales of raw ones, in the states' type.
template <class T>
__device__ __forceinline__ QuadOf<T> clipped(const Quad& raw) {
    return map([](float x) { return soft_clipped(static_cast<T>(x)); }, raw);
}
template <class T>
__device__ __forceinline__ QuadOf<T> rounded(const QuadOf<T>& x, double grid) {
    if (grid == 0) return x;
    return map([grid](T e) { return static_cast<T>(on_grid(static_cast<double>(e), grid)); }, x);
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(QuadGrid::kThreads, sizeof(T) == 8 ? 2 : 6) affine_rows(Forward<T> p) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * QuadGrid::kThreads + threadIdx.x, row = item / p.width;
    const int lane = static_cast<int>(threadIdx.x) % p.width;
    T scales = 0, square = 0;
    for (int64_t i = 4 * lane; row < p.rows && i < p.c; i += 4 * p.width) {
        const float* parameters = p.parameters + row * p.parameters_stride;
        const QuadOf<T> h = load_quad<kWhole>(p.h + row * p.h_stride, i, p.c);
        const Quad b = load_quad<kWhole>(parameters + p.c, i, p.c);
        const QuadOf<T> a = clipped<T>(load_quad<kWhole>(parameters, i, p.c));
        const QuadOf<T> u = map([](T x, T s, float t) { return affine_noise(x, s, t); }, h, a, b);
        if (p.u) store_quad<kWhole>(p.u + row * p.u_stride, i, p.c, rounded(u, p.grid));
        scales += sum_inside<kWhole>(a, i, p.c);
        square += sum_inside<kWhole>(map([](T e) { return e * e; }, u), i, p.c);
    }
    scales = warp_reduce(scales, Sum{}, p.width);
    square = warp_reduce(square, Sum{}, p.width);
    if (lane != 0 || row >= p.rows) return;
    if (p.log_det) p.log_det[row] = static_cast<float>(-scales);
    const T constant = -static_cast<T>(p.c) * static_cast<T>(kHalfLogTau);
    if (p.log_density) p.log_density[row] = static_cast<float>(fma(T(-0.5), square, constant) - scales);
}

struct Backward {
    const float *h, *parameters, *d_u, *d_log_density, *d_log_det;  // the last three may be null
    float *d_h, *d_parameters;
    int64_t h_stride, parameters_stride, d_u_stride, d_h_stride, d_parameters_stride;
    QuadGrid quads;
};

__global__ void __launch_bounds__(QuadGrid::kThreads) affine_backward_quads(Backward p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t i) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t c = p.quads.C;
        const float* parameters = p.parameters + row * p.parameters_stride;
        float* d_parameters = p.d_parameters + row * p.d_parameters_stride;
        const float d_density = p.d_log_density ? p.d_log_density[row] : 0.0f;
        const float d_det = d_density + (p.d_log_det ? p.d_log_det[row] : 0.0f);
        const Quad h = load_quad<kWhole>(p.h + row * p.h_stride, i, c), a = load_quad<kWhole>(parameters, i, c),
                   b = load_quad<kWhole>(parameters + c, i, c),
                   d_u = p.d_u ? load_quad<kWhole>(p.d_u + row * p.d_u_stride, i, c) : filled(0);
        Quad d_h, d_a;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const SoftClip clip = softclip(a.e[e]);
            const float scale = expf(-clip.value), u = (h.e[e] - b.e[e]) * scale, d = fmaf(-d_density, u, d_u.e[e]);
            d_h.e[e] = d * scale;
            d_a.e[e] = -fmaf(d, u, d_det) * clip.slope;
        }
        store_quad<kWhole>(p.d_h + row * p.d_h_stride, i, c, d_h);
        store_quad<kWhole>(d_parameters, i, c, d_a);
        store_quad<kWhole>(d_parameters + c, i, c, map([](float e) { return -e; }, d_h));
    });
}

template <class T>
struct Inverse {
    const T* u;
    const float* parameters;
    T* h;
    int64_t u_stride, parameters_stride, h_stride;
    double grid;
    QuadGrid quads;
};

template <class T>
__global__ void __launch_bounds__(QuadGrid::kThreads) affine_inverse_quads(Inverse<T> p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t i) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t c = p.quads.C;
        const float* parameters = p.parameters + row * p.parameters_stride;
        const QuadOf<T> u = load_quad<kWhole>(p.u + row * p.u_stride, i, c),
                        a = clipped<T>(load_quad<kWhole>(parameters, i, c));
        const Quad b = load_quad<kWhole>(parameters + c, i, c);
        const QuadOf<T> h = map([](T x, T s, float t) { return affine_state(x, s, t); }, u, a, b);
        store_quad<kWhole>(p.h + row * p.h_stride, i, c, rounded(h, p.grid));
    });
}

/// Quads of every row by itself: the shifts of a row begin c behind its log-scales.
template <class... V>
QuadGrid row_quads(const View& shape, const V&... others) {
    const int64_t c = shape.shape[1];
    return {shape.shape[0] * ceil_div(c, 4), ceil_div(c, 4), c, c % 4 == 0 && rows_aligned(shape, others...)};
}

template <class T>
Status forward(const Affine& p, const Stream& stream) {
    const QuadGrid quads = row_quads(p.h, p.parameters, p.u);
    int width = 1;
    while (width < 32 && width < quads.per_row) width *= 2;
    const Forward<T> f{.h = p.h.as<T>(),
                       .parameters = p.parameters.as<float>(),
                       .u = p.u.as<T>(),
                       .log_density = p.log_density.as<float>(),
                       .log_det = p.log_det.as<float>(),
                       .h_stride = p.h.stride[0],
                       .parameters_stride = p.parameters.stride[0],
                       .u_stride = p.u.stride[0],
                       .rows = p.h.shape[0],
                       .c = quads.C,
                       .grid = p.grid,
                       .width = width};
    const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(f.rows * width, QuadGrid::kThreads))),
                    .threads = QuadGrid::kThreads};
    return launch("affine", stream, grid, quads.aligned ? affine_rows<T, true> : affine_rows<T, false>, f);
}

Status run(const Affine& p, const Stream& stream, Workspace) {
    return p.h.dtype == DType::f64 ? forward<double>(p, stream) : forward<float>(p, stream);
}

Status run_backward(const AffineBackward& p, const Stream& stream, Workspace) {
    const Backward b{.h = p.h.as<float>(),
                     .parameters = p.parameters.as<float>(),
                     .d_u = p.d_u.as<float>(),
                     .d_log_density = p.d_log_density.as<float>(),
                     .d_log_det = p.d_log_det.as<float>(),
                     .d_h = p.d_h.as<float>(),
                     .d_parameters = p.d_parameters.as<float>(),
                     .h_stride = p.h.stride[0],
                     .parameters_stride = p.parameters.stride[0],
                     .d_u_stride = p.d_u.stride[0],
                     .d_h_stride = p.d_h.stride[0],
                     .d_parameters_stride = p.d_parameters.stride[0],
                     .quads = row_quads(p.h, p.parameters, p.d_u, p.d_h, p.d_parameters)};
    return launch("affine_backward", stream, b.quads.grid(), affine_backward_quads, b);
}

template <class T>
Status inverse(const AffineInverse& p, const Stream& stream) {
    const Inverse<T> i{.u = p.u.as<T>(),
                       .parameters = p.parameters.as<float>(),
                       .h = p.h.as<T>(),
                       .u_stride = p.u.stride[0],
                       .parameters_stride = p.parameters.stride[0],
                       .h_stride = p.h.stride[0],
                       .grid = p.grid,
                       .quads = row_quads(p.u, p.parameters, p.h)};
    return launch("affine_inverse", stream, i.quads.grid(), affine_inverse_quads<T>, i);
}

Status run_inverse(const AffineInverse& p, const Stream& stream, Workspace) {
    return p.u.dtype == DType::f64 ? inverse<double>(p, stream) : inverse<float>(p, stream);
}

}  // namespace

Op<Affine> affine_entry() {
    return {run, nullptr};
}
Op<AffineBackward> affine_backward_entry() {
    return {run_backward, nullptr};
}
Op<AffineInverse> affine_inverse_entry() {
    return {run_inverse, nullptr};
}

}  // namespace noema::cuda
