// posterior_update: a thread per quad, whose four normals are one block of random numbers; 17 quads go in or out for each. Sums of
// a sequence: each block leaves its own, and a second, tiny launch adds them in order.
#include "noema/ops/posterior_update.h"

#include "common/adam.h"
#include "common/reduce.h"
#include "cuda.h"
#include "noema/arena.h"
#include "noema/rng.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kRun = 4 * kThreads;  // elements of a block

/// Rows of one sequence begin `stride` elements apart.
struct Rows {
    float* data = nullptr;
    int64_t stride = 0;

    __device__ __forceinline__ float* row(int64_t b) const { return data + b * stride; }
};

struct Posterior {
    Rows mean, log_variance, d_z, eps, mean_m, mean_v, log_variance_m, log_variance_v, next_eps, z;
    const int64_t* seeds;
    const uint8_t* active;
    int64_t seeds_stride, active_stride, n, runs;
    uint32_t draw;
    float rate, kl_weight;
    AdamFactors adam;
    bool constant_log_variance, aligned;
    float* sums;  // [B, runs, 2], or null
};

__device__ __forceinline__ Quad normals_at(const Posterior& p, int64_t b, int64_t i) {
    const Philox bits = rng_block(static_cast<uint64_t>(p.seeds[b * p.seeds_stride]), RngStream::thought, p.draw,
                                  static_cast<uint32_t>(i / kNormalRow), static_cast<uint32_t>(i % kNormalRow / 4));
    Quad out;
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const float radius = sqrtf(-2.0f * logf(to_uniform(bits.x[k])));
        float sine, cosine;
        sin_cos_pi(2.0f * to_uniform(bits.x[k + 1]), sine, cosine);
        out.e[k] = radius * cosine;
        out.e[k + 1] = radius * sine;
    }
    return out;
}

__device__ __forceinline__ Quad deviations(const Quad& log_variance) {
    return map([](float x) { return expf(0.5f * x); }, log_variance);
}

template <bool kWhole>
__device__ __forceinline__ Quad moved(const Posterior& p, const Quad& x, const Quad& direction, float* row, int64_t i) {
    const Quad to = map([&](float a, float step) { return fmaf(-p.rate, step, a); }, x, direction);
    store_quad<kWhole>(row, i, p.n, to);
    return to;
}

template <bool kWhole>
__device__ __forceinline__ void update(const Posterior& p, int64_t b, int64_t i, Quad& mean, Quad& log_variance) {
    const Quad d_z = load_quad<kWhole>(p.d_z.row(b), i, p.n);
    if (!p.constant_log_variance) {
        const auto slope = [&](float d, float eps, float deviation) {
            return 0.5f * fmaf(p.kl_weight, fmaf(deviation, deviation, -1.0f), d * eps * deviation);
        };
        const Quad eps = load_quad<kWhole>(p.eps.row(b), i, p.n),
                   gradient = map(slope, d_z, eps, deviations(log_variance));
        const Quad way =
            adam_direction<kWhole>(p.adam, gradient, p.log_variance_m.row(b), p.log_variance_v.row(b), i, p.n);
        log_variance = moved<kWhole>(p, log_variance, way, p.log_variance.row(b), i);
    }
    const Quad gradient = map([&](float d, float m) { return fmaf(p.kl_weight, m, d); }, d_z, mean);
    const Quad way = adam_direction<kWhole>(p.adam, gradient, p.mean_m.row(b), p.mean_v.row(b), i, p.n);
    mean = moved<kWhole>(p, mean, way, p.mean.row(b), i);
}

/// One quad; twice its kl and log_ratio.
template <bool kWhole>
__device__ __forceinline__ float2 step(const Posterior& p, int64_t b, int64_t i) {
    Quad mean = load_quad<kWhole>(p.mean.row(b), i, p.n);
    Quad log_variance = load_quad<kWhole>(p.log_variance.row(b), i, p.n);
    if (p.d_z.data) update<kWhole>(p, b, i, mean, log_variance);
    const Quad eps = p.seeds ? normals_at(p, b, i) : load_quad<kWhole>(p.next_eps.row(b), i, p.n);
    if (p.seeds && p.next_eps.data) store_quad<kWhole>(p.next_eps.row(b), i, p.n, eps);
    const Quad deviation = deviations(log_variance);
    const Quad z = map([](float e, float s, float m) { return fmaf(e, s, m); }, eps, deviation, mean);
    store_quad<kWhole>(p.z.row(b), i, p.n, z);
    const auto divergence = [](float m, float s, float l) { return fmaf(m, m, fmaf(s, s, -1.0f) - l); };
    const auto ratio = [](float e, float l, float x) { return fmaf(-x, x, fmaf(e, e, l)); };
    return make_float2(sum_inside<kWhole>(map(divergence, mean, deviation, log_variance), i, p.n),
                       sum_inside<kWhole>(map(ratio, eps, log_variance, z), i, p.n));
}

__global__ void __launch_bounds__(kThreads) posterior_quads(Posterior p) {
    SHARED_ARRAY(float, scratch, kThreads / 32);
    const int64_t b = static_cast<int64_t>(blockIdx.x / static_cast<unsigned>(p.runs)), run = blockIdx.x - b * p.runs;
    if (p.active && !p.active[b * p.active_stride]) return;
    const int64_t i = run * kRun + 4 * static_cast<int64_t>(threadIdx.x);
    float2 sums = make_float2(0, 0);
    if (i < p.n) sums = p.aligned && i + 4 <= p.n ? step<true>(p, b, i) : step<false>(p, b, i);
    if (!p.sums) return;
    sums.x = block_reduce(sums.x, Sum{}, scratch);
    sums.y = block_reduce(sums.y, Sum{}, scratch);
    if (threadIdx.x != 0) return;
    p.sums[2 * blockIdx.x] = 0.5f * sums.x;
    p.sums[2 * blockIdx.x + 1] = 0.5f * sums.y;
}

struct Totals {
    const float* sums;
    const uint8_t* active;
    float *kl, *log_ratio;
    int64_t active_stride, kl_stride, log_ratio_stride, runs;
    int B;
};

constexpr int kTotalThreads = 128;

__global__ void __launch_bounds__(kTotalThreads) posterior_totals(Totals p) {
    const int b = static_cast<int>(blockIdx.x) * kTotalThreads + static_cast<int>(threadIdx.x);
    if (b >= p.B || (p.active && !p.active[b * p.active_stride])) return;
    const float* from = p.sums + 2 * b * p.runs;
    float kl = 0, log_ratio = 0;
    for (int64_t i = 0; i < p.runs; ++i) {
        kl += from[2 * i];
        log_ratio += from[2 * i + 1];
    }
    if (p.kl) p.kl[b * p.kl_stride] = kl;
    if (p.log_ratio) p.log_ratio[b * p.log_ratio_stride] = log_ratio;
}

Rows rows_of(const View& v) {
    return v ? Rows{v.as<float>(), v.stride[0]} : Rows{};
}

int64_t runs_of(const PosteriorUpdate& p) {
    return ceil_div(p.mean.shape[1], kRun);
}

size_t workspace(const PosteriorUpdate& p, const Stream&) {
    return p.kl || p.log_ratio ? workspace_bytes<float>(2 * p.mean.shape[0] * runs_of(p)) : 0;
}

Status totals(const PosteriorUpdate& p, const float* sums, const Stream& stream) {
    const Totals t{.sums = sums,
                   .active = p.active.as<uint8_t>(),
                   .kl = p.kl.as<float>(),
                   .log_ratio = p.log_ratio.as<float>(),
                   .active_stride = p.active.stride[0],
                   .kl_stride = p.kl.stride[0],
                   .log_ratio_stride = p.log_ratio.stride[0],
                   .runs = runs_of(p),
                   .B = static_cast<int>(p.mean.shape[0])};
    return launch("posterior_update: sums", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(t.B, kTotalThreads))), .threads = kTotalThreads},
                  posterior_totals, t);
}

Status run(const PosteriorUpdate& a, const Stream& stream, Workspace w) {
    const int64_t B = a.mean.shape[0], runs = runs_of(a);
    float* sums = a.kl || a.log_ratio ? w.take<float>(2 * B * runs) : nullptr;
    const Posterior p{.mean = rows_of(a.mean),
                      .log_variance = rows_of(a.log_variance),
                      .d_z = rows_of(a.d_z),
                      .eps = rows_of(a.eps),
                      .mean_m = rows_of(a.mean_m),
                      .mean_v = rows_of(a.mean_v),
                      .log_variance_m = rows_of(a.log_variance_m),
                      .log_variance_v = rows_of(a.log_variance_v),
                      .next_eps = rows_of(a.next_eps),
                      .z = rows_of(a.z),
                      .seeds = a.seeds.as<int64_t>(),
                      .active = a.active.as<uint8_t>(),
                      .seeds_stride = a.seeds.stride[0],
                      .active_stride = a.active.stride[0],
                      .n = a.mean.shape[1],
                      .runs = runs,
                      .draw = static_cast<uint32_t>(a.draw),
                      .rate = a.rate,
                      .kl_weight = a.kl_weight,
                      .adam = {a.beta1, a.beta2, a.epsilon, unbias(a.beta1, a.step), unbias(a.beta2, a.step)},
                      .constant_log_variance = a.constant_log_variance,
                      .aligned = rows_aligned(a.mean, a.log_variance, a.d_z, a.eps, a.mean_m, a.mean_v,
                                              a.log_variance_m, a.log_variance_v, a.next_eps, a.z),
                      .sums = sums};
    NOEMA_TRY(launch("posterior_update", stream, {.blocks = dim3(static_cast<unsigned>(B * runs)), .threads = kThreads},
                     posterior_quads, p));
    return a.kl || a.log_ratio ? totals(a, sums, stream) : Status{};
}

}  // namespace

Op<PosteriorUpdate> posterior_update_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
