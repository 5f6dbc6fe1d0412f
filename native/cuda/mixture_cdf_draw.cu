// mixture_cdf_draw: a component by the running sum of the weights, 1 to 32 of them at a time, and a value of it.
#include "cuda.h"
#include "mixture_cdf.h"
#include "noema/ops/mixture_cdf.h"

namespace noema::cuda {

namespace {

struct DrawScalars {
    MixtureGrid of;
    const float *uniform, *normal;
    float* h;
    int64_t uniform_stride, normal_stride, h_stride;
};

struct Min {
    __device__ __forceinline__ int operator()(int a, int b) const { return min(a, b); }
};

__global__ void __launch_bounds__(kMixtureThreads, 2) mixture_cdf_draw_scalars(DrawScalars p) {
    const MyScalar me(p.of);
    const MyComponents<0> components(p.of, me);
    const int K = p.of.K;
    const float* row = components.row();
    const float top = components.largest_logit(me);
    float sum = 0;
    components.each([&](int, int, float logit, float, float) { sum += expf(logit - top); });
    const float goal = p.uniform[me.row * p.uniform_stride + me.i] * me.sum(sum);
    float reached = 0;
    int first = K, last = 0;  // the first component that reaches the goal; the last that weighs anything
    for (int start = 0; start < K; start += me.width) {
        const int k = start + me.lane;
        const float weight = k < K ? expf(row[k] - top) : 0.0f;
        float up_to = weight;
        for (int step = 1; step < me.width; step *= 2) {
            const float other = __shfl_up_sync(kAllLanes, up_to, static_cast<unsigned>(step), me.width);
            if (me.lane >= step) up_to += other;
        }
        if (weight > 0) {
            last = k;
            if (reached + up_to >= goal) first = min(first, k);
        }
        reached += __shfl_sync(kAllLanes, up_to, me.width - 1, me.width);
    }
    first = warp_reduce(first, Min{}, me.width);
    last = warp_reduce(last, Max{}, me.width);
    if (!me.writes) return;
    const int k = first < K ? first : last;
    const float value =
        fmaf(expf(softclip(row[2 * K + k]).value), p.normal[me.row * p.normal_stride + me.i], row[K + k]);
    p.h[me.row * p.h_stride + me.i] = goal == goal ? value : goal;
}

Status run(const MixtureCdfDraw& p, const Stream& stream, Workspace) {
    const DrawScalars d{mixture_grid(p.parameters), p.uniform.as<float>(), p.normal.as<float>(), p.h.as<float>(),
                        p.uniform.stride[0],        p.normal.stride[0],    p.h.stride[0]};
    return launch("mixture_cdf_draw", stream, d.of.grid(), mixture_cdf_draw_scalars, d);
}

}  // namespace

Op<MixtureCdfDraw> mixture_cdf_draw_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
