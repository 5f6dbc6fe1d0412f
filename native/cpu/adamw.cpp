#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/adamw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/adamw.h"
#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

VF blend(VF old, float keep, VF fresh, float take) {
    return hn::MulAdd(old, hn::Set(DF(), keep), hn::Mul(fresh, hn::Set(DF(), take)));
}

void adamw_range(const AdamW& p, const AdamWFactors& now, int64_t first, int64_t n) {
    const DF d;
    float *w = p.parameter.as<float>() + first, *m = p.m.as<float>() + first, *v = p.v.as<float>() + first;
    const float* gradient = p.gradient.as<float>() + first;
    float* average = p.average ? p.average.as<float>() + first : nullptr;
    const VF factor = hn::Set(d, now.gradient), epsilon = hn::Set(d, p.epsilon);
    const VF rate = hn::Set(d, now.rate), decay = hn::Set(d, now.rate * p.weight_decay);
    const VF unbias_m = hn::Set(d, now.unbias_m), unbias_v = hn::Set(d, now.unbias_v);
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF g = hn::Mul(load(gradient), factor), old = load(w);
        const VF new_m = blend(load(m), p.beta1, g, 1.0f - p.beta1);
        const VF new_v = blend(load(v), p.beta2, hn::Mul(g, g), 1.0f - p.beta2);
        const VF update = hn::Div(hn::Mul(new_m, unbias_m), hn::Add(hn::Sqrt(hn::Mul(new_v, unbias_v)), epsilon));
        // Not w (1 - rate decay): rounded to f32, that factor would be off by up to 6e-8, always the same way.
        const VF moved = hn::Sub(old, hn::MulAdd(decay, old, hn::Mul(rate, update)));
        store(new_m, m);
        store(new_v, v);
        store(moved, w);
        if (average) store(blend(load(average), p.ema_decay, moved, 1.0f - p.ema_decay), average);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(adamw_range);

namespace {

float gradient_factor(const AdamW& p) {
    if (!p.norm || p.max_norm <= 0) return p.gradient_scale;
    return static_cast<float>(p.gradient_scale *
                              std::min(1.0, static_cast<double>(p.max_norm) / p.norm.as<float>()[0]));
}

// 1 / (1 - beta^step): in double, rounded once.
float unbias(float beta, int64_t step) {
    return static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step))));
}

AdamWFactors factors(const AdamW& p) {
    const float* s = p.schedule.as<float>();
    if (s) return {gradient_factor(p), s[0], s[1], s[2]};
    return {gradient_factor(p), p.rate, unbias(p.beta1, p.step), unbias(p.beta2, p.step)};
}

Status run(const AdamW& p, const Stream& stream, Workspace) {
    if (p.norm && !std::isfinite(p.norm.as<float>()[0])) return {};
    const int64_t n = p.parameter.shape[0];
    const AdamWFactors now = factors(p);
    parallel_for(stream, ceil_div(n, kTaskElements), [&](int64_t i, int) {
        const int64_t first = i * kTaskElements;
        HWY_DYNAMIC_DISPATCH(adamw_range)(p, now, first, std::min(kTaskElements, n - first));
    });
    return {};
}

}  // namespace

Op<AdamW> adamw_entry() {
    return {run, nullptr};
}

}  // namespace noema::cpu
#endif
