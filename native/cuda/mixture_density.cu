// Threads lie along the components, each with 16 rows: a mean is read once for all of them, and the rows' values come as quads that all
// threads read alike. So 32 operations follow five reads, for any number of rows from 16 on, and a table of 50257 is spread over 13 spans.
#include "common/mixture_density.h"

#include "common/reduce.h"

namespace noema::cuda {

namespace {

constexpr int kRows = 16;

struct Pass {
    ComponentTable table;
    Columns z;
    const float* logits;
    int64_t logits_stride;
    ExpSum* sums;  // [spans,R]
};

__device__ __forceinline__ void squares(const Columns& mean, const Columns& z, int64_t row, int64_t k,
                                        float (&sum)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = 0;
#pragma unroll 2
    for (int64_t i = 0; i < mean.d; ++i) {
        const float m = mean.at(i, k);
#pragma unroll
        for (int q = 0; q < kRows / 4; ++q) {
            const float4 v = z.quad(i, row + 4 * q);
            const float x[4] = {v.x - m, v.y - m, v.z - m, v.w - m};
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[4 * q + e] = fmaf(x[e], x[e], sum[4 * q + e]);
        }
    }
}

/// Adds exp(x), but for what is negligible: a million terms of exp(-45) weigh 3e-14. NaN is not lost.
__device__ __forceinline__ void absorb(ExpSum& s, float x, int32_t k) {
    if (x > s.max) {
        s = {x, fmaf(s.sum, expf(s.max - x), 1.0f), k};
    } else if (!(x < s.max - 45.0f) && x != -INFINITY) {
        s.sum += expf(x - s.max);
    }
}

__device__ __forceinline__ ExpSum other_lane(const ExpSum& s, int bits) {
    return {__shfl_xor_sync(kAllLanes, s.max, bits), __shfl_xor_sync(kAllLanes, s.sum, bits),
            __shfl_xor_sync(kAllLanes, s.best, bits)};
}

/// Lanes' sums of a row joined; thread 0 gets the block's.
template <int kWarps>
__device__ __forceinline__ void join_warps(ExpSum (&mine)[kRows], Shared<float> scratch) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
        for (int bits = 16; bits > 0; bits /= 2) {
            const ExpSum other = other_lane(mine[r], bits);
            mine[r] = lane & bits ? joined(other, mine[r]) : joined(mine[r], other);  // both lanes alike
        }
    if constexpr (kWarps > 1) {
        if (lane == 0)
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const int at = 3 * (warp * kRows + r);
                scratch[at] = mine[r].max;
                scratch[at + 1] = mine[r].sum;
                scratch[at + 2] = __int_as_float(mine[r].best);
            }
        __syncthreads();
    }
}

template <Density what, int kThreads>
__global__ void __launch_bounds__(kThreads) sum_densities(Pass p) {
    constexpr int kWarps = kThreads / 32;
    SHARED_ARRAY(float, scratch, 3 * kRows * kWarps);
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows, R = p.z.N, K = p.table.mean.N;
    const int64_t first = static_cast<int64_t>(blockIdx.y) * DensitySums::kSpan,
                  last = min(K, first + DensitySums::kSpan);
    ExpSum mine[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) mine[r] = {-INFINITY, 0.0f, static_cast<int32_t>(first)};
    for (int64_t k = first + thread; k < last; k += kThreads) {
        float x[kRows];
        if constexpr (what != Density::weights) squares(p.table.mean, p.z, row, k, x);
        const float scale = p.table.half_inv_var[k], peak = p.table.log_peak(k);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if constexpr (what != Density::weights) x[r] = fmaf(-scale, x[r], peak);
            if constexpr (what != Density::normal) {
                const float logit = row + r < R ? p.logits[(row + r) * p.logits_stride + k] : 0.0f;
                x[r] = what == Density::weights ? logit : x[r] + logit;
            }
            absorb(mine[r], x[r], static_cast<int32_t>(k));
        }
    }
    join_warps<kWarps>(mine, scratch);
    ExpSum* to = p.sums + blockIdx.y * R + row;
    if constexpr (kWarps == 1) {
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            if (thread == 0 && row + r < R) to[r] = mine[r];
    } else {
        if (thread >= kRows || row + thread >= R) return;
        const auto of_warp = [&](int w) {
            const int at = 3 * (w * kRows + thread);
            return ExpSum{scratch[at], scratch[at + 1], __float_as_int(scratch[at + 2])};
        };
        ExpSum all = of_warp(0);
        for (int w = 1; w < kWarps; ++w) all = joined(all, of_warp(w));
        to[thread] = all;
    }
}

template <Density what>
Status launch_for(const Pass& p, int64_t spans, const Stream& stream) {
    constexpr int kNarrow = 32, kWide = 256;
    const bool narrow = p.table.K() <= kWide;
    const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(p.z.N, kRows)), static_cast<unsigned>(spans)),
                    .threads = narrow ? kNarrow : kWide};
    return launch("mixture density", stream, grid, narrow ? sum_densities<what, kNarrow> : sum_densities<what, kWide>,
                  p);
}

}  // namespace

Status density_sums(Density what, const DensityRows& rows, const Columns& z, const Stream& stream, Workspace& workspace,
                    DensitySums& out) {
    const int64_t spans = ceil_div(rows.table.K(), DensitySums::kSpan);
    ExpSum* sums = workspace.take<ExpSum>(spans * z.N);
    out = {sums, spans, z.N};
    const Pass p{rows.table, z, rows.logits.as<float>(), rows.logits ? rows.logits.stride[0] : 0, sums};
    if (what == Density::normal) return launch_for<Density::normal>(p, spans, stream);
    if (what == Density::weighted) return launch_for<Density::weighted>(p, spans, stream);
    return launch_for<Density::weights>(p, spans, stream);
}

}  // namespace noema::cuda
