// adamw: one pass. Norm and schedule are read from device memory by every thread (one cache line), so that a recorded step
// clips and decays as the day requires.
#include "noema/ops/adamw.h"

#include <cfloat>

#include "common/adam.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Update {
    float *parameter, *m, *v, *average;
    const float *gradient, *norm, *schedule;
    float max_norm, gradient_scale, rate;  // rate and adam's last two: without a schedule
    AdamFactors adam;
    float weight_decay, ema_decay;
    QuadGrid quads;
};

__global__ void __launch_bounds__(QuadGrid::kThreads) adamw_quads(Update p) {
    float factor = p.gradient_scale;
    if (p.norm) {
        const float norm = *p.norm;
        if (!(fabsf(norm) <= FLT_MAX)) return;
        if (p.max_norm > 0 && norm > p.max_norm) factor *= p.max_norm / norm;
    }
    AdamFactors adam = p.adam;
    if (p.schedule) {
        adam.unbias_m = p.schedule[1];
        adam.unbias_v = p.schedule[2];
    }
    const float rate = p.schedule ? p.schedule[0] : p.rate, decay = rate * p.weight_decay;
    at_quad(p.quads, [&](auto whole, int64_t, int64_t i) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t n = p.quads.C;
        const Quad g = map([&](float e) { return e * factor; }, load_quad<kWhole>(p.gradient, i, n));
        const Quad update = adam_direction<kWhole>(adam, g, p.m, p.v, i, n);
        // Not w (1 - rate decay): rounded to f32, that factor would be off by up to 6e-8, always the same way.
        const auto moved = [&](float w, float step) { return w - fmaf(decay, w, rate * step); };
        const Quad w = map(moved, load_quad<kWhole>(p.parameter, i, n), update);
        store_quad<kWhole>(p.parameter, i, n, w);
        if (!p.average) return;
        const Quad old = load_quad<kWhole>(p.average, i, n);
        store_quad<kWhole>(p.average, i, n, map([&](float a, float e) { return blend(a, p.ema_decay, e); }, old, w));
    });
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
                   {p.beta1, p.beta2, p.epsilon, unbias(p.beta1, p.step), unbias(p.beta2, p.step)},
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
