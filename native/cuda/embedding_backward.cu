// embedding_backward: rows sorted by id, stably; then whoever holds an id's first row adds all of that id's rows, in order. Two kernels
// share the ids: a warp per id and 128 columns where an id has few rows, and a block per id and 32 columns where it has many (the mask token
// can be every second row), which keeps 256 rows on their way to a single chain of additions.
#include "common/quads.h"
#include "common/reduce.h"
#include "common/sort.h"
#include "cuda.h"
#include "noema/ops/embedding.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMany = 256;      // rows from which on an id gets blocks of its own; also rows per stage
constexpr int kAtOnce = 8;      // rows under way in a warp
constexpr int kBlockQuads = 8;  // 32 columns
constexpr int kRowsPerThread = kMany * kBlockQuads / kThreads;

struct Scatter {
    const int32_t *keys, *rows;
    const float* d_y;
    float* d_table;
    int64_t d_y_stride, d_table_stride;
    int64_t R;
    int64_t C;
};

/// Whether the id at place i starts there.
__device__ __forceinline__ bool starts(const Scatter& p, int64_t i) {
    return i == 0 || p.keys[i - 1] != p.keys[i];
}
/// Whether the id that starts at place i has at least kMany rows.
__device__ __forceinline__ bool is_many(const Scatter& p, int64_t i) {
    return i + kMany <= p.R && p.keys[i + kMany - 1] == p.keys[i];
}

__device__ __forceinline__ Quad plus(const Quad& a, const Quad& b) {
    return map([](float x, float y) { return x + y; }, a, b);
}

template <bool kWhole>
__global__ void __launch_bounds__(kThreads) add_few(Scatter p) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (first >= p.R || !starts(p, first) || is_many(p, first)) return;
    const int32_t id = p.keys[first];
    const int64_t c = 4 * (static_cast<int64_t>(blockIdx.y) * 32 + lane);
    const bool inside = c < p.C;
    float* to = p.d_table + id * p.d_table_stride;
    Quad sum = inside ? load_quad<kWhole>(to, c, p.C) : filled(0);
    for (int64_t at = first;; at += 32) {
        const int64_t i = at + lane;
        const bool same = i < p.R && p.keys[i] == id;
        const int32_t row = same ? p.rows[i] : 0;
        const int n = __popc(__ballot_sync(kAllLanes, same));
        for (int k = 0; k < n; k += kAtOnce) {
            Quad next[kAtOnce];
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {
                const int64_t r = __shfl_sync(kAllLanes, row, k + j);
                if (inside && k + j < n) next[j] = load_quad<kWhole>(p.d_y + r * p.d_y_stride, c, p.C);
            }
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (k + j < n) sum = plus(sum, next[j]);
        }
        if (n < 32) break;
    }
    if (inside) store_quad<kWhole>(to, c, p.C, sum);
}

/// The first place in [low, R) that holds another id than `low` does.
__device__ __forceinline__ int64_t end_of(const Scatter& p, int64_t low) {
    const int32_t id = p.keys[low];
    int64_t high = p.R;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (p.keys[middle] == id)
            low = middle;
        else
            high = middle;
    }
    return high;
}

/// Where an id with many rows starts among places [256 b, 256 b + 256), or -1. At most one does.
__device__ __forceinline__ int64_t find_many(const Scatter& p, Shared<int64_t> found) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kMany + threadIdx.x;
    if (threadIdx.x == 0) found[0] = -1;
    __syncthreads();
    if (i < p.R && starts(p, i) && is_many(p, i)) found[0] = i;
    __syncthreads();
    return found[0];
}

/// A thread's share of a stage: row numbers, asked for one stage ahead of the rows, and those a stage ahead of their use.
template <bool kWhole>
struct Stage {
    int32_t row[kRowsPerThread];
    Quad quad[kRowsPerThread];

    static __device__ __forceinline__ int64_t place(int64_t at, int k) {
        return at + threadIdx.x / kBlockQuads + k * (kThreads / kBlockQuads);
    }
    __device__ __forceinline__ void ask_rows(const Scatter& p, int64_t at, int64_t end) {
#pragma unroll
        for (int k = 0; k < kRowsPerThread; ++k) row[k] = place(at, k) < end ? p.rows[place(at, k)] : -1;
    }
    __device__ __forceinline__ void ask_quads(const Scatter& p, int64_t c) {
#pragma unroll
        for (int k = 0; k < kRowsPerThread; ++k)
            quad[k] = row[k] >= 0 && c < p.C ? load_quad<kWhole>(p.d_y + row[k] * p.d_y_stride, c, p.C) : filled(0);
    }
    __device__ __forceinline__ void put(Shared<float4> rows) const {
#pragma unroll
        for (int k = 0; k < kRowsPerThread; ++k) {
            const Quad& q = quad[k];
            rows[static_cast<int>(threadIdx.x) + k * kThreads] = make_float4(q.e[0], q.e[1], q.e[2], q.e[3]);
        }
    }
};

template <bool kWhole>
__global__ void __launch_bounds__(kThreads) add_many(Scatter p) {
    SHARED_ARRAY(int64_t, found, 1);
    SHARED_ARRAY(float4, rows, kMany * kBlockQuads);
    const int64_t first = find_many(p, found);
    if (first < 0) return;
    const int64_t end = end_of(p, first), low = static_cast<int64_t>(blockIdx.y) * 4 * kBlockQuads;
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t c = low + 4 * (thread % kBlockQuads), column = low + thread;
    const bool adds = thread < 4 * kBlockQuads && column < p.C;
    float* to = p.d_table + p.keys[first] * p.d_table_stride + column;
    float sum = adds ? *to : 0.0f;
    Stage<kWhole> stage;
    stage.ask_rows(p, first, end);
    stage.ask_quads(p, c);
    stage.ask_rows(p, first + kMany, end);
    for (int64_t at = first; at < end; at += kMany) {
        stage.put(rows);
        __syncthreads();
        stage.ask_quads(p, c);
        stage.ask_rows(p, at + 2 * kMany, end);
        const int n = static_cast<int>(min(static_cast<int64_t>(kMany), end - at));
        const Shared<float> columns = rows.template as<float>();
        if (adds)
#pragma unroll 16
            for (int k = 0; k < n; ++k) sum += static_cast<float>(columns[k * 4 * kBlockQuads + thread]);
        __syncthreads();
    }
    if (adds) *to = sum;
}

size_t workspace(const EmbeddingBackward& p, const Stream&) {
    return sort_rows_workspace(p.d_y.shape[0]);
}

Status run(const EmbeddingBackward& p, const Stream& stream, Workspace w) {
    const int64_t R = p.d_y.shape[0], C = p.d_y.shape[1];
    SortedRows sorted;
    NOEMA_TRY(sort_rows(p.ids.as<int32_t>(), R, p.d_table.shape[0], stream, w, sorted));
    const Scatter s{
        sorted.keys, sorted.rows, p.d_y.as<float>(), p.d_table.as<float>(), p.d_y.stride[0], p.d_table.stride[0], R, C};
    const bool whole = C % 4 == 0 && rows_aligned(p.d_y, p.d_table);
    const auto grid = [&](int64_t places, int64_t columns) {
        return Grid{
            .blocks = dim3(static_cast<unsigned>(ceil_div(R, places)), static_cast<unsigned>(ceil_div(C, columns))),
            .threads = kThreads};
    };
    if (R >= kMany)
        NOEMA_TRY(launch("embedding_backward frequent", stream, grid(kMany, 4 * kBlockQuads),
                         whole ? add_many<true> : add_many<false>, s));
    return launch("embedding_backward", stream, grid(kWarps, 128), whole ? add_few<true> : add_few<false>, s);
}

}  // namespace

Op<EmbeddingBackward> embedding_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
