#include "noema/ops/gelu.h"

#include "common/activations.h"
#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Elements {
    const float *x, *d_y;  // d_y: backward
    float* out;
    int64_t x_stride, d_y_stride, out_stride;
    QuadGrid quads;
};

template <bool kErf>
__global__ void __launch_bounds__(QuadGrid::kThreads) gelu_quads(Elements p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t f) {
        constexpr bool kWhole = decltype(whole)::value;
        const Quad x = load_quad<kWhole>(p.x + row * p.x_stride, f, p.quads.C);
        const Quad y = map([](float e) { return kErf ? gelu_erf(e) : gelu_tanh(e); }, x);
        store_quad<kWhole>(p.out + row * p.out_stride, f, p.quads.C, y);
    });
}

template <bool kErf>
__global__ void __launch_bounds__(QuadGrid::kThreads) gelu_backward_quads(Elements p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t f) {
        constexpr bool kWhole = decltype(whole)::value;
        const Quad x = load_quad<kWhole>(p.x + row * p.x_stride, f, p.quads.C);
        const Quad d_y = load_quad<kWhole>(p.d_y + row * p.d_y_stride, f, p.quads.C);
        const auto slope = [](float e, float d) { return d * (kErf ? gelu_erf_slope(e) : gelu_tanh_slope(e)); };
        store_quad<kWhole>(p.out + row * p.out_stride, f, p.quads.C, map(slope, x, d_y));
    });
}

Status run(const Gelu& p, const Stream& stream, Workspace) {
    const Elements e{p.x.as<float>(), nullptr, p.y.as<float>(), p.x.stride[0], 0, p.y.stride[0], quad_grid(p.x, p.y)};
    const bool erf = p.form == Activation::gelu_erf;
    return launch("gelu", stream, e.quads.grid(), erf ? gelu_quads<true> : gelu_quads<false>, e);
}

Status run_backward(const GeluBackward& p, const Stream& stream, Workspace) {
    const Elements e{p.x.as<float>(), p.d_y.as<float>(), p.d_x.as<float>(),           p.x.stride[0],
                     p.d_y.stride[0], p.d_x.stride[0],   quad_grid(p.x, p.d_y, p.d_x)};
    const bool erf = p.form == Activation::gelu_erf;
    return launch("gelu_backward", stream, e.quads.grid(), erf ? gelu_backward_quads<true> : gelu_backward_quads<false>,
                  e);
}

}  // namespace

Op<Gelu> gelu_entry() {
    return {run, nullptr};
}
Op<GeluBackward> gelu_backward_entry() {
    return {run_backward, nullptr};
}

}  // namespace noema::cuda
