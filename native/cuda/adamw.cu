// adamw: one pass. Norm and schedule are read from device memory by every thread (one cache line), so that a recorded step
// clips and decays as the day requires.
#include "noema/ops/adamw.h"

#include <cfloat>
#include <cmath>

#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Update {
    float *parameter, *m, *v, *average;
    const float *gradient, *norm, *schedule;
    float max_norm, gradient_scale, rate, unbias_m, unbias_v;  // the last three: without a schedule
    float beta1, beta2, epsilon, weight_decay, ema_decay;
    QuadGrid quads;
};

__device__ __forceinline__ float blend(float old, float keep, float fresh) {
    return fmaf(old, keep, fresh * (1.0f - keep));
}

__global__ void __launch_bounds__(QuadGrid::kThreads) adamw_quads(Update p) {
    float factor = p.gradient_scale;
    if (p.norm) {
        const float norm = *p.norm;
        if (!(fabsf(norm) <= FLT_MAX)) return;
        if (p.max_norm > 0 && norm > p.max_norm) factor *= p.max_norm / norm;
    }
    const float rate = p.schedule ? p.schedule[0] : p.rate, unbias_m = p.schedule ? p.schedule[1] : p.unbias_m,
                unbias_v = p.schedule ? p.schedule[2] : p.unbias_v, decay = rate * p.weight_decay;
    at_quad(p.quads, [&](auto whole, int64_t, int64_t i) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t n = p.quads.C;
        const Quad g = map([&](float e) { return e * factor; }, load_quad<kWhole>(p.gradient, i, n));
        const Quad m = map([&](float old, float e) { return blend(old, p.beta1, e); }, load_quad<kWhole>(p.m, i, n), g);
        const Quad v =
            map([&](float old, float e) { return blend(old, p.beta2, e * e); }, load_quad<kWhole>(p.v, i, n), g);
        // Not w (1 - rate decay): rounded to f32, that factor would be off by up to 6e-8, always the same way.
        const auto moved = [&](float w, float mean, float square) {
            const float update = mean * unbias_m / (sqrtf(square * unbias_v) + p.epsilon);
            return w - fmaf(decay, w, rate * update);
        };
        const Quad w = map(moved, load_quad<kWhole>(p.parameter, i, n), m, v);
        store_quad<kWhole>(p.m, i, n, m);
        store_quad<kWhole>(p.v, i, n, v);
        store_quad<kWhole>(p.parameter, i, n, w);
        if (!p.average) return;
        const Quad old = load_quad<kWhole>(p.average, i, n);
        store_quad<kWhole>(p.average, i, n, map([&](float a, float e) { return blend(a, p.ema_decay, e); }, old, w));
    });
}

// 1 / (1 - beta^step): in double, rounded once.
float unbias(float beta, int64_t step) {
    return static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step))));
}

Status run(const AdamW& p, const Stream& stream, Workspace) {
    const int64_t n = p.parameter.shape[0];
    const bool aligned = rows_aligned(p.parameter, p.gradient, p.m, p.v, p.average);
    const Update u{p.parameter.as<float>(),
                   p.m.as<float>(),
                   p.v.as<float>(),
                   p.average.as<float>(),
                   p.gradient.as<float>(),
                   p.norm.as<float>(),
                   p.schedule.as<float>(),
                   p.max_norm,
                   p.gradient_scale,
                   p.rate,
                   unbias(p.beta1, p.step),
                   unbias(p.beta2, p.step),
                   p.beta1,
                   p.beta2,
                   p.epsilon,
                   p.weight_decay,
                   p.ema_decay,
                   {ceil_div(n, 4), ceil_div(n, 4), n, aligned}};
    return launch("adamw", stream, u.quads.grid(), adamw_quads, u);
}

}  // namespace

Op<AdamW> adamw_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
