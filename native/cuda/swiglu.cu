#include "noema/ops/swiglu.h"

#include "common/activations.h"
#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Forward {
    const float *gate, *up;
    float* y;
    int64_t gate_stride, up_stride, y_stride;
    QuadGrid quads;
};

__global__ void __launch_bounds__(QuadGrid::kThreads) swiglu_quads(Forward p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t f) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t F = p.quads.C;
        const Quad gate = load_quad<kWhole>(p.gate + row * p.gate_stride, f, F);
        const Quad up = load_quad<kWhole>(p.up + row * p.up_stride, f, F);
        store_quad<kWhole>(p.y + row * p.y_stride, f, F, map([](float g, float u) { return silu(g) * u; }, gate, up));
    });
}

Status run(const Swiglu& p, const Stream& stream, Workspace) {
    const Forward f{
        p.gate.as<float>(),          p.up.as<float>(), p.y.as<float>(), p.gate.stride[0], p.up.stride[0], p.y.stride[0],
        quad_grid(p.gate, p.up, p.y)};
    return launch("swiglu", stream, f.quads.grid(), swiglu_quads, f);
}

struct Backward {
    const float *gate, *up, *d_y;
    float *d_gate, *d_up;
    int64_t gate_stride, up_stride, d_y_stride, d_gate_stride, d_up_stride;
    QuadGrid quads;
};

__global__ void __launch_bounds__(QuadGrid::kThreads) swiglu_backward_quads(Backward p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t f) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t F = p.quads.C;
        const Quad gate = load_quad<kWhole>(p.gate + row * p.gate_stride, f, F);
        const Quad up = load_quad<kWhole>(p.up + row * p.up_stride, f, F);
        const Quad d_y = load_quad<kWhole>(p.d_y + row * p.d_y_stride, f, F);
        Quad d_gate, d_up;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Logistic s = logistic(gate.e[i]);
            d_gate.e[i] = d_y.e[i] * up.e[i] * silu_slope(gate.e[i], s);
            d_up.e[i] = d_y.e[i] * (gate.e[i] * s.rising);
        }
        store_quad<kWhole>(p.d_gate + row * p.d_gate_stride, f, F, d_gate);
        store_quad<kWhole>(p.d_up + row * p.d_up_stride, f, F, d_up);
    });
}

Status run_backward(const SwigluBackward& p, const Stream& stream, Workspace) {
    const Backward b{p.gate.as<float>(),
                     p.up.as<float>(),
                     p.d_y.as<float>(),
                     p.d_gate.as<float>(),
                     p.d_up.as<float>(),
                     p.gate.stride[0],
                     p.up.stride[0],
                     p.d_y.stride[0],
                     p.d_gate.stride[0],
                     p.d_up.stride[0],
                     quad_grid(p.gate, p.up, p.d_y, p.d_gate, p.d_up)};
    return launch("swiglu_backward", stream, b.quads.grid(), swiglu_backward_quads, b);
}

}  // namespace

Op<Swiglu> swiglu_entry() {
    return {run, nullptr};
}
Op<SwigluBackward> swiglu_backward_entry() {
    return {run_backward, nullptr};
}

}  // namespace noema::cuda
