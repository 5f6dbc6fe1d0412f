// Without u and log_det only the density is wanted, which rows share (mixture_density.h). Else token by token: components in lanes, scalar
// after scalar; the sums of a task's scalars are then mapped to u a vector at a time. Wide states go the way of the inverse
// (mixture_rosenblatt_inverse.cpp).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_rosenblatt.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/mixture_density.h"
#include "cpu/rosenblatt-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void rosenblatt_rows(const MixtureRosenblatt& p, const ComponentTable& table, const TokenMemory& memory, int64_t first,
                     int64_t last) {
    const int64_t d = table.d, n = (last - first) * d;
    Posterior<float> posterior(table, memory.posterior);
    Components scratch(memory.components, table.K + kLanes);
    ScalarSums sums(memory.sums, memory.scalars);
    double densities[kMostTokens];
    for (int64_t r = first; r < last; ++r) {
        float weight = 0;
        token_sums(posterior, p.logits.at<const float>(r), p.z.at<const float>(r), d, scratch, sums, (r - first) * d,
                   densities[r - first], weight);
    }
    float* u = memory.sums;  // in place of the sums' weights
    for (int64_t i = 0; i < n; i += kLanes) hn::StoreU(map_of(sums.load(i)).u, DF(), u + i);
    for (int64_t r = first; r < last; ++r) {
        double log_det = densities[r - first];
        for (int64_t i = 0; i < d; ++i) {
            const float value = u[(r - first) * d + i];
            log_det += 0.5 * static_cast<double>(value) * value + 0.91893853320467274178;
            if (p.u) p.u.at<float>(r)[i] = static_cast<float>(on_grid(static_cast<double>(value), p.grid));
        }
        if (p.log_density) p.log_density.as<float>()[r] = static_cast<float>(densities[r - first]);
        if (p.log_det) p.log_det.as<float>()[r] = static_cast<float>(log_det);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(rosenblatt_rows);

namespace {

bool is_wide(const MixtureRosenblatt& p) {
    return p.z.dtype == DType::f64;
}
bool only_density(const MixtureRosenblatt& p) {
    return !p.u && !p.log_det;
}

size_t workspace(const MixtureRosenblatt& p, const Stream& stream) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    const size_t table = ComponentTable::bytes(K, d);
    if (is_wide(p)) return table + workspace_bytes<double>(WideMemory::doubles(K, d) * stream.threads);
    return table + (only_density(p) ? MixtureDensity::bytes(R, K, true) : TokenMemory::bytes(K, d, stream.threads));
}

Status density(const MixtureRosenblatt& p, const ComponentTable& table, const Stream& stream, Workspace w) {
    const MixtureDensity density = mixture_density(p.z, p.logits, table, stream, w);
    constexpr int64_t kTask = MixtureDensity::kLogs;
    const int64_t R = p.z.shape[0];
    parallel_for(stream, p.log_density ? ceil_div(R, kTask) : 0, [&](int64_t i, int) {
        const int64_t first = i * kTask, n = std::min(kTask, R - first);
        float joint[kTask], weights[kTask];
        density.logs(density.joint, first, n, joint);
        density.logs(density.weights, first, n, weights);
        for (int64_t r = 0; r < n; ++r) p.log_density.as<float>()[first + r] = joint[r] - weights[r];
    });
    return {};
}

Status run(const MixtureRosenblatt& p, const Stream& stream, Workspace w) {
    const ComponentTable table = component_table(p.mean, p.log_sigma, stream, w);
    if (is_wide(p)) {
        const int64_t rows = WideMemory::tokens(table.K), doubles = WideMemory::doubles(table.K, table.d);
        double* memory = w.take<double>(doubles * stream.threads);
        parallel_for(stream, ceil_div(p.z.shape[0], rows), [&](int64_t i, int worker) {
            pass_wide_tokens(p, table, {memory + worker * doubles, table.K, table.d}, i * rows,
                             std::min(p.z.shape[0], (i + 1) * rows));
        });
        return {};
    }
    if (only_density(p)) return density(p, table, stream, w);
    float* memory = w.take<float>(TokenMemory::floats(table.K, table.d) * stream.threads);
    parallel_tokens(stream, p.z.shape[0], table, [&](int64_t first, int64_t last, int worker) {
        HWY_DYNAMIC_DISPATCH(rosenblatt_rows)(p, table, TokenMemory(memory, worker, table), first, last);
    });
    return {};
}

}  // namespace

Op<MixtureRosenblatt> mixture_rosenblatt_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
