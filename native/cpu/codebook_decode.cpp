#include <cmath>

#include "cpu/cpu.h"
#include "cpu/mixture_density.h"

namespace noema::cpu {

namespace {

size_t workspace(const CodebookDecode& p, const Stream&) {
    const int64_t V = p.mean.shape[0];
    return ComponentTable::bytes(V, p.mean.shape[1]) + MixtureDensity::bytes(p.z.shape[0], V, false);
}

void write_rows(const CodebookDecode& p, const MixtureDensity& density, int64_t first, int64_t n) {
    if (p.log_sum) density.logs(density.joint, first, n, p.log_sum.as<float>() + first);
    for (int64_t r = first; r < first + n; ++r) {
        const ExpSum all = density.total(density.joint, r);
        if (p.best) p.best.as<int32_t>()[r] = all.best;
        // NaN where every density is 0, or one is NaN.
        if (p.confidence) p.confidence.as<float>()[r] = all.sum > 0 ? static_cast<float>(1 / all.sum) : NAN;
    }
}

Status run(const CodebookDecode& p, const Stream& stream, Workspace w) {
    const ComponentTable table = component_table(p.mean, p.log_sigma, stream, w);
    const MixtureDensity density = mixture_density(p.z, {}, table, stream, w);
    constexpr int64_t kTask = MixtureDensity::kLogs;
    const int64_t R = p.z.shape[0];
    parallel_for(stream, ceil_div(R, kTask),
                 [&](int64_t i, int) { write_rows(p, density, i * kTask, std::min(kTask, R - i * kTask)); });
    return {};
}

}  // namespace

Op<CodebookDecode> codebook_decode_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
