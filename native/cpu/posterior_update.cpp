// posterior_update: a task takes a run of a sequence's elements, one row of the random numbers long.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/posterior_update.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/adam-inl.h"
#include "cpu/cpu.h"
#include "cpu/posterior_update.h"
#include "cpu/random-inl.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {
namespace {

struct Sums {
    VF kl, log_ratio;  // twice what they are called
};

template <class Load, class Store>
HWY_INLINE void step(const PosteriorRun& p, const Load& load, const Store& store) {
    const DF d;
    const VF d_z = load(p.d_z), mean = load(p.mean), rate = hn::Set(d, p.rate), kl_weight = hn::Set(d, p.kl_weight);
    const VF direction = adam_direction(p.adam, hn::MulAdd(kl_weight, mean, d_z), load, store, p.mean_m, p.mean_v);
    store(hn::NegMulAdd(rate, direction, mean), p.mean);
    if (p.constant_log_variance) return;
    const VF log_variance = load(p.log_variance), deviation = exp_any(hn::Mul(log_variance, hn::Set(d, 0.5f)));
    const VF slope = hn::Mul(hn::Mul(d_z, load(p.eps)), deviation);
    const VF excess = hn::MulSub(deviation, deviation, hn::Set(d, 1.0f));
    const VF gradient = hn::Mul(hn::MulAdd(kl_weight, excess, slope), hn::Set(d, 0.5f));
    const VF way = adam_direction(p.adam, gradient, load, store, p.log_variance_m, p.log_variance_v);
    store(hn::NegMulAdd(rate, way, log_variance), p.log_variance);
}

/// z from the draw eps.
template <class Load, class Store>
HWY_INLINE void draw(const PosteriorRun& p, VF eps, const Load& load, const Store& store, Sums& sums) {
    const DF d;
    const VF mean = load(p.mean), log_variance = load(p.log_variance);
    const VF deviation = exp_any(hn::Mul(log_variance, hn::Set(d, 0.5f)));
    const VF z = hn::MulAdd(eps, deviation, mean);
    store(z, p.z);
    const VF excess = hn::MulSub(deviation, deviation, hn::Set(d, 1.0f));
    sums.kl = hn::Add(sums.kl, hn::MulAdd(mean, mean, hn::Sub(excess, log_variance)));
    sums.log_ratio = hn::Add(sums.log_ratio, hn::NegMulAdd(z, z, hn::MulAdd(eps, eps, log_variance)));
}

void update_run(const PosteriorRun& p, float* totals) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const RowUniforms uniforms(p.seed, RngStream::thought, p.draw, p.row);
    Sums sums{hn::Zero(d), hn::Zero(d)};
    VF made[2] = {hn::Zero(d), hn::Zero(d)};
    // Lanes beyond the end are 0 everywhere, and add nothing.
    const auto part = [&](const VF& fresh, const auto& load, const auto& store) HWY_ATTR {
        if (p.d_z) step(p, load, store);
        if (p.seeded && p.next_eps) store(fresh, p.next_eps);
        draw(p, p.seeded ? fresh : load(p.next_eps), load, store, sums);
    };
    for (int64_t i = 0; i < p.n; i += 2 * L) {
        if (p.seeded) normals_of(uniforms, static_cast<uint32_t>(i), made[0], made[1]);
        for (int64_t at = i; at < i + 2 * L && at < p.n; at += L) {
            const VF& fresh = made[at > i];
            if (at + L <= p.n) {
                part(
                    fresh, [&](const float* x) HWY_ATTR { return hn::LoadU(DF(), x + at); },
                    [&](VF v, float* x) HWY_ATTR { hn::StoreU(v, DF(), x + at); });
            } else {
                const size_t rest = static_cast<size_t>(p.n - at);
                part(
                    hn::IfThenElseZero(hn::FirstN(d, rest), fresh),
                    [&](const float* x) HWY_ATTR { return load_n(DF(), x + at, rest); },
                    [&](VF v, float* x) HWY_ATTR { store_n(v, DF(), x + at, rest); });
            }
        }
    }
    totals[0] = 0.5f * sum_of(sums.kl);
    totals[1] = 0.5f * sum_of(sums.log_ratio);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(update_run);

namespace {

int64_t runs_of(const PosteriorUpdate& p) {
    return ceil_div(p.mean.shape[1], kNormalRow);
}

PosteriorRun run_of(const PosteriorUpdate& p, const AdamFactors& adam, int64_t b, int64_t index) {
    const int64_t first = index * kNormalRow;
    const auto at = [&](const View& v) { return v ? v.at<float>(b) + first : nullptr; };
    return {.mean = at(p.mean),
            .log_variance = at(p.log_variance),
            .d_z = at(p.d_z),
            .eps = at(p.eps),
            .mean_m = at(p.mean_m),
            .mean_v = at(p.mean_v),
            .log_variance_m = at(p.log_variance_m),
            .log_variance_v = at(p.log_variance_v),
            .next_eps = at(p.next_eps),
            .z = at(p.z),
            .n = std::min(kNormalRow, p.mean.shape[1] - first),
            .adam = adam,
            .rate = p.rate,
            .kl_weight = p.kl_weight,
            .constant_log_variance = p.constant_log_variance,
            .seeded = !p.seeds.empty(),
            .seed = p.seeds ? static_cast<uint64_t>(p.seeds.as<int64_t>()[b]) : 0,
            .draw = static_cast<uint32_t>(p.draw),
            .row = static_cast<uint32_t>(index)};
}

size_t workspace(const PosteriorUpdate& p, const Stream&) {
    return workspace_bytes<float>(2 * p.mean.shape[0] * runs_of(p));
}

Status run(const PosteriorUpdate& p, const Stream& stream, Workspace w) {
    const int64_t B = p.mean.shape[0], runs = runs_of(p);
    const AdamFactors adam{p.beta1, p.beta2, p.epsilon, unbias(p.beta1, p.step), unbias(p.beta2, p.step)};
    float* totals = w.take<float>(2 * B * runs);
    const auto active = [&](int64_t b) { return !p.active || p.active.as<uint8_t>()[b]; };
    parallel_for(stream, B * runs, [&](int64_t i, int) {
        if (active(i / runs)) HWY_DYNAMIC_DISPATCH(update_run)(run_of(p, adam, i / runs, i % runs), totals + 2 * i);
    });
    for (int64_t b = 0; b < B; ++b) {
        if (!active(b)) continue;
        double sums[2] = {0, 0};
        for (int64_t i = 0; i < 2 * runs; ++i) sums[i % 2] += totals[2 * b * runs + i];
        if (p.kl) p.kl.as<float>()[b] = static_cast<float>(sums[0]);
        if (p.log_ratio) p.log_ratio.as<float>()[b] = static_cast<float>(sums[1]);
    }
    return {};
}

}  // namespace

Op<PosteriorUpdate> posterior_update_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
