#include "noema/ops/codebook.h"

#include "common/mixture_density.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 128;

struct Answers {
    DensitySums density;
    float* log_sum;
    int32_t* best;
    float* confidence;
};

__global__ void __launch_bounds__(kThreads) write_answers(Answers p) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (r >= p.density.R) return;
    const ExpSum all = p.density.total(r);
    if (p.log_sum) p.log_sum[r] = all.max + logf(all.sum);
    if (p.best) p.best[r] = all.best;
    // NaN where every density is 0, or one is NaN.
    if (p.confidence) p.confidence[r] = all.sum > 0 ? 1.0f / all.sum : NAN;
}

size_t workspace(const CodebookDecode& p, const Stream&) {
    const int64_t R = p.z.shape[0], V = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(V, d) + Columns::bytes(R, d) + DensitySums::bytes(R, V);
}

Status run(const CodebookDecode& p, const Stream& stream, Workspace w) {
    const int64_t R = p.z.shape[0];
    DensityRows rows{p.z, {}, {}};
    Columns z;
    DensitySums density;
    NOEMA_TRY(component_table(p.mean, p.log_sigma, stream, w, rows.table));
    NOEMA_TRY(columns_of(p.z, stream, w, z));
    NOEMA_TRY(density_sums(Density::normal, rows, z, stream, w, density));
    const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(R, kThreads))), .threads = kThreads};
    return launch("codebook_decode", stream, grid, write_answers,
                  Answers{density, p.log_sum.as<float>(), p.best.as<int32_t>(), p.confidence.as<float>()});
}

}  // namespace

Op<CodebookDecode> codebook_decode_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
