// With share = d_log_sum exp(log N_k(z) - log_sum) and g = share / sigma_k²: d_z += g (mean_k - z), d_mean_k += g (z - mean_k),
// d_log_sigma_k += share (|z - mean_k|² / sigma_k² - d). Two kernels of one form, so that no sum crosses threads: a thread per row passes
// over components, then a thread per component passes over rows, four at a time. Distances are computed in both; what follows them only
// where exp is not negligible, which is nearly nowhere once sigma is small. Blocks own 16 columns of the gradient.
#include "common/component_table.h"
#include "cuda.h"
#include "noema/ops/codebook.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 128, kColumns = 16;

/// Components that a thread passes over; each span's sums are added afterwards.
constexpr int64_t kSpan = 1024;

struct Backward {
    ComponentTable table;
    Columns z;
    const float *log_sum, *d_log_sum;
    float* d_z_parts;  // [spans, d, stride of z]
    float* d_z;
    int64_t d_z_stride, spans;
    bool accumulate_z;
    TableSums sums;
    int64_t chunk_rows;
};

struct Four {
    float e[4];
};

/// Squared distances of column n of `one` to columns m, ..., m + 3 of `four`.
__device__ __forceinline__ Four squares(const Columns& one, int64_t n, const Columns& four, int64_t m) {
    Four sum{{0, 0, 0, 0}};
#pragma unroll 2
    for (int64_t i = 0; i < one.d; ++i) {
        const float a = one.at(i, n);
        const float4 b = four.quad(i, m);
        const float x[4] = {a - b.x, a - b.y, a - b.z, a - b.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) sum.e[e] = fmaf(x[e], x[e], sum.e[e]);
    }
    return sum;
}

/// total[c] += sum_e pull[e] (column m + e of `four` - column n of `one`), rows first + c.
__device__ __forceinline__ void add_pulls(const Columns& one, int64_t n, const Columns& four, int64_t m,
                                          const Four& pull, int64_t first, float (&total)[kColumns]) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
        if (first + c >= one.d) break;
        const float a = one.at(first + c, n);
        const float4 b = four.quad(first + c, m);
        total[c] = fmaf(pull.e[0], b.x - a, total[c]);
        total[c] = fmaf(pull.e[1], b.y - a, total[c]);
        total[c] = fmaf(pull.e[2], b.z - a, total[c]);
        total[c] = fmaf(pull.e[3], b.w - a, total[c]);
    }
}

/// Below -45 exp(x) is left out: a million such shares weigh 3e-14. NaN counts.
__device__ __forceinline__ bool counts(float x) {
    return !(x < -45.0f);
}

__global__ void __launch_bounds__(kThreads) pull_rows(Backward p) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, R = p.z.N;
    if (r >= R) return;
    const int64_t column = static_cast<int64_t>(blockIdx.z) * kColumns;
    const int64_t first = blockIdx.y * kSpan, last = min(p.table.mean.stride, first + kSpan);
    const float log_sum = p.log_sum[r], weight = p.d_log_sum[r];
    float total[kColumns] = {};
    for (int64_t k = first; k < last; k += 4) {
        const Four square = squares(p.z, r, p.table.mean, k);
        Four pull;
        bool any = false;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const float scale = p.table.half_inv_var[k + e];
            const float x = fmaf(-scale, square.e[e], p.table.log_peak(k + e)) - log_sum;
            const bool mine = counts(x) && k + e < p.table.mean.N;
            pull.e[e] = mine ? 2 * scale * (weight * expf(x)) : 0.0f;
            any |= mine;
        }
        if (any) add_pulls(p.z, r, p.table.mean, k, pull, column, total);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
        if (column + c < p.z.d) p.d_z_parts[(blockIdx.y * p.z.d + column + c) * p.z.stride + r] = total[c];
}

__global__ void __launch_bounds__(kThreads) add_spans(Backward p) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, i = blockIdx.y;
    if (r >= p.z.N) return;
    float* to = p.d_z + r * p.d_z_stride + i;
    float sum = p.accumulate_z ? *to : 0.0f;
    for (int64_t span = 0; span < p.spans; ++span) sum += p.d_z_parts[(span * p.z.d + i) * p.z.stride + r];
    *to = sum;
}

__global__ void __launch_bounds__(kThreads) pull_components(Backward p) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (k >= p.table.mean.N) return;
    const int64_t column = static_cast<int64_t>(blockIdx.z) * kColumns;
    const int64_t first = blockIdx.y * p.chunk_rows, last = min(p.z.N, first + p.chunk_rows);
    const float scale = p.table.half_inv_var[k], peak = p.table.log_peak(k), width = static_cast<float>(p.z.d);
    float total[kColumns] = {}, stretch = 0;
    for (int64_t r = first; r < last; r += 4) {
        const Four square = squares(p.table.mean, k, p.z, r);
        Four pull;
        bool any = false;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const bool inside = r + e < last;
            const float x = fmaf(-scale, square.e[e], peak) - (inside ? p.log_sum[r + e] : 0.0f);
            const bool mine = inside && counts(x);
            const float share = mine ? p.d_log_sum[r + e] * expf(x) : 0.0f;
            pull.e[e] = 2 * scale * share;
            if (mine) stretch = fmaf(share, fmaf(2 * scale, square.e[e], -width), stretch);
            any |= mine;
        }
        if (any) add_pulls(p.table.mean, k, p.z, r, pull, column, total);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
        if (column + c < p.z.d) p.sums.at(blockIdx.y, column + c)[k] = total[c];
    if (column == 0) p.sums.at(blockIdx.y, p.z.d)[k] = stretch;
}

/// Some 1024 blocks for the multiprocessors, but no chunk of under 64 rows.
int64_t chunk_rows(const CodebookDecodeBackward& p) {
    const int64_t R = p.z.shape[0], blocks = ceil_div(p.mean.shape[0], kThreads);
    const int64_t most = blocks < 1024 ? 1024 / blocks : 1, rows = ceil_div(ceil_div(R, most), 4) * 4;
    return rows < 64 ? 64 : rows;
}

size_t workspace(const CodebookDecodeBackward& p, const Stream&) {
    const int64_t R = p.z.shape[0], V = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(V, d) + Columns::bytes(R, d) + TableSums::bytes(ceil_div(R, chunk_rows(p)), V, d) +
           workspace_bytes<float>(ceil_div(V, kSpan) * d * Columns::stride_of(R));
}

Status run(const CodebookDecodeBackward& p, const Stream& stream, Workspace w) {
    const int64_t R = p.z.shape[0], V = p.mean.shape[0], d = p.mean.shape[1], rows = chunk_rows(p);
    const int64_t chunks = ceil_div(R, rows), spans = ceil_div(V, kSpan), slices = ceil_div(d, kColumns);
    if (R == 0) return {};
    Backward b{};
    NOEMA_TRY(component_table(p.mean, p.log_sigma, stream, w, b.table));
    NOEMA_TRY(columns_of(p.z, stream, w, b.z));
    b.log_sum = p.log_sum.as<float>();
    b.d_log_sum = p.d_log_sum.as<float>();
    b.sums = table_sums(chunks, V, d, w);
    b.chunk_rows = rows;
    b.d_z_parts = w.take<float>(spans * d * b.z.stride);
    b.d_z = p.d_z.as<float>();
    b.d_z_stride = p.d_z.stride[0];
    b.spans = spans;
    b.accumulate_z = p.accumulate_z;
    const auto grid = [](int64_t x, int64_t y, int64_t z) {
        return Grid{.blocks = dim3(static_cast<unsigned>(ceil_div(x, kThreads)), static_cast<unsigned>(y),
                                   static_cast<unsigned>(z)),
                    .threads = kThreads};
    };
    NOEMA_TRY(launch("codebook_decode_backward rows", stream, grid(R, spans, slices), pull_rows, b));
    NOEMA_TRY(launch("codebook_decode_backward spans", stream, grid(R, d, 1), add_spans, b));
    NOEMA_TRY(launch("codebook_decode_backward components", stream, grid(V, chunks, slices), pull_components, b));
    return add_table_sums(b.sums, p.d_mean, p.d_log_sigma, stream);
}

}  // namespace

Op<CodebookDecodeBackward> codebook_decode_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
