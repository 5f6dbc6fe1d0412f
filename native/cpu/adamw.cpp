#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/adamw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/adam-inl.h"
#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void adamw_range(const AdamW& p, const AdamWFactors& now, int64_t first, int64_t n) {
    const DF d;
    float *w = p.parameter.as<float>() + first, *m = p.m.as<float>() + first, *v = p.v.as<float>() + first;
    const float* gradient = p.gradient.as<float>() + first;
    float* average = p.average ? p.average.as<float>() + first : nullptr;
    const VF factor = hn::Set(d, now.gradient);
    const VF rate = hn::Set(d, now.rate), decay = hn::Set(d, now.rate * p.weight_decay);
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF g = hn::Mul(load(gradient), factor), old = load(w);
        const VF update = adam_direction(now.adam, g, load, store, m, v);
        // Not w (1 - rate decay): rounded to f32, that factor would be off by up to 6e-8, always the same way.
        const VF moved = hn::Sub(old, hn::MulAdd(decay, old, hn::Mul(rate, update)));
        store(moved, w);
        if (average) store(blend(load(average), p.ema_decay, moved), average);
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

AdamWFactors factors(const AdamW& p) {
    AdamWFactors f{gradient_factor(p), p.rate, {p.beta1, p.beta2, p.epsilon, 0, 0}};
    if (const float* s = p.schedule.as<float>()) {
        f.rate = s[0];
        f.adam.unbias_m = s[1];
        f.adam.unbias_v = s[2];
    } else {
        f.adam.unbias_m = unbias(p.beta1, p.step);
        f.adam.unbias_v = unbias(p.beta2, p.step);
    }
    return f;
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
