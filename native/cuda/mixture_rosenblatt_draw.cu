// mixture_rosenblatt_draw: block by token. Warps add up neighbouring runs of the weights; the one whose run reaches the level looks for the
// component, 32 at a time.
#include <cfloat>

#include "common/launch.h"
#include "common/reduce.h"
#include "cuda.h"
#include "noema/ops/mixture_rosenblatt.h"

namespace noema::cuda {

namespace {

struct DrawTokens {
    const float *uniform, *normal, *logits, *mean, *log_sigma;
    float* z;
    int64_t normal_stride, logits_stride, mean_stride, z_stride, K, d;
};

constexpr int kNarrow = 32, kWide = 256;

/// The first component of a warp's run [first, last) at which `reached` and the weights before it come to the goal, or the last that weighs
/// anything.
__device__ __forceinline__ int64_t find(const float* logits, int64_t first, int64_t last, float most, float reached,
                                        float goal) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int64_t found = first;
    for (int64_t start = first; start < last; start += 32) {
        const float weight = start + lane < last ? expf(logits[start + lane] - most) : 0.0f;
        float up_to = weight;
        for (int step = 1; step < 32; step *= 2) {
            const float other = __shfl_up_sync(kAllLanes, up_to, static_cast<unsigned>(step));
            if (lane >= step) up_to += other;
        }
        const unsigned weighs = __ballot_sync(kAllLanes, weight > 0);
        const unsigned reaches = __ballot_sync(kAllLanes, weight > 0 && reached + up_to >= goal);
        if (weighs) found = start + 31 - __clz(static_cast<int>(weighs));
        if (reaches) return start + __ffs(static_cast<int>(reaches)) - 1;
        reached += __shfl_sync(kAllLanes, up_to, 31);
    }
    return found;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) draw_tokens(DrawTokens p) {
    constexpr int kWarps = kThreads / 32;
    SHARED_ARRAY(float, scratch, kWarps);
    SHARED_ARRAY(int64_t, chosen, 1);
    const int64_t r = blockIdx.x, run = ceil_div(ceil_div(p.K, 32), kWarps) * 32;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const float* logits = p.logits + r * p.logits_stride;
    const int64_t first = min(p.K, warp * run), last = min(p.K, first + run);
    float most = -FLT_MAX, mine = 0;
    for (int64_t k = thread; k < p.K; k += kThreads) most = max(most, logits[k]);
    most = block_reduce(most, Max{}, scratch);
    for (int64_t k = first + lane; k < last; k += 32) mine += expf(logits[k] - most);
    mine = warp_reduce(mine, Sum{});
    if (lane == 0) scratch[warp] = mine;
    __syncthreads();
    float all = 0, reached = 0, before = 0;
    for (int w = 0; w < kWarps; ++w) all += static_cast<float>(scratch[w]);
    const float goal = p.uniform[r] * all;
    int mine_is = 0;  // the first warp that reaches the goal, or the last whose run weighs anything
    for (int w = 0; w < kWarps && (w == 0 || reached < goal); ++w) {
        const float sum = scratch[w];
        if (sum > 0) mine_is = w, before = reached;
        reached += sum;
    }
    if (warp == mine_is) {
        const int64_t k = find(logits, first, last, most, before, goal);
        if (lane == 0) chosen[0] = k;
    }
    __syncthreads();
    const int64_t k = chosen[0];
    const float sigma = goal == goal ? expf(p.log_sigma[k]) : NAN;
    for (int64_t i = thread; i < p.d; i += kThreads)
        p.z[r * p.z_stride + i] = fmaf(sigma, p.normal[r * p.normal_stride + i], p.mean[k * p.mean_stride + i]);
}

Status run(const MixtureRosenblattDraw& p, const Stream& stream, Workspace) {
    const int64_t K = p.mean.shape[0];
    const DrawTokens t{p.uniform.as<float>(),
                       p.normal.as<float>(),
                       p.logits.as<float>(),
                       p.mean.as<float>(),
                       p.log_sigma.as<float>(),
                       p.z.as<float>(),
                       p.normal.stride[0],
                       p.logits.stride[0],
                       p.mean.stride[0],
                       p.z.stride[0],
                       K,
                       p.mean.shape[1]};
    const bool narrow = K <= 1024;
    const Grid grid{.blocks = dim3(static_cast<unsigned>(p.z.shape[0])), .threads = narrow ? kNarrow : kWide};
    return launch("mixture_rosenblatt_draw", stream, grid, narrow ? draw_tokens<kNarrow> : draw_tokens<kWide>, t);
}

}  // namespace

Op<MixtureRosenblattDraw> mixture_rosenblatt_draw_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
