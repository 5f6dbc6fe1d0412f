// reduce: sums in double over fixed chunks, one value per chunk and line; a second kernel adds the chunks where there are several.
// Rows: a warp each while they are short, else a block per 16384 elements. Columns: 128 of them and 512 rows per block.
#include <cfloat>
#include <cmath>

#include "common/quads.h"
#include "common/reduce.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kShortRow = 2048, kRowChunk = 16384, kColumnChunk = 512;

struct Lines {
    const void* x;
    float* y;
    double* parts;  // [chunks, lines], or null where one chunk is all
    int64_t x_stride, lines, R, C;
    double divisor;
    ReduceKind kind;
    bool aligned, accumulate;
};

struct Folding {
    ReduceKind kind;

    __device__ __forceinline__ double start() const {
        return kind == ReduceKind::max ? -HUGE_VAL : kind == ReduceKind::min ? HUGE_VAL : 0.0;
    }
    /// Two folded values; also a folded value and a plain one, but for squares and counts. max and min skip a NaN in b.
    __device__ __forceinline__ double operator()(double a, double b) const {
        if (kind == ReduceKind::max) return b > a ? b : a;
        if (kind == ReduceKind::min) return b < a ? b : a;
        return a + b;
    }
    __device__ __forceinline__ double fold(double a, float x) const {
        if (kind == ReduceKind::count_non_finite) return fabsf(x) <= FLT_MAX ? a : a + 1.0;
        const double e = x;
        if (kind == ReduceKind::sum_squares) return fma(e, e, a);
        return (*this)(a, e);
    }
};

__device__ __forceinline__ void finish(const Lines& p, int64_t line, double value) {
    if (p.kind == ReduceKind::mean) value /= p.divisor;
    float* y = p.y + line;
    *y = static_cast<float>(p.accumulate ? static_cast<double>(*y) + value : value);
}
__device__ __forceinline__ void put(const Lines& p, int64_t line, int64_t chunk, double value) {
    if (p.parts)
        p.parts[chunk * p.lines + line] = value;
    else
        finish(p, line, value);
}

/// Elements first, first + 4 step, ... (quads) of [0, last) of a row.
template <class T>
__device__ __forceinline__ double fold_row(const Lines& p, const T* row, int64_t first, int64_t last, int step) {
    const Folding folding{p.kind};
    double value = folding.start();
#pragma unroll 4
    for (int64_t c = first; c < last; c += 4 * step) {
        const Quad q = p.aligned && c + 4 <= last ? load_quad<true>(row, c, last) : load_quad<false>(row, c, last);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (c + i < last) value = folding.fold(value, q.e[i]);
    }
    return value;
}

template <class T>
__global__ void __launch_bounds__(kThreads) reduce_short_rows(Lines p) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (row >= p.R) return;
    const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
    const double value = warp_reduce(fold_row(p, x, 4 * (threadIdx.x % 32), p.C, 32), Folding{p.kind});
    if (threadIdx.x % 32 == 0) finish(p, row, value);
}

template <class T>
__global__ void __launch_bounds__(kThreads) reduce_long_rows(Lines p) {
    SHARED_ARRAY(double, scratch, kWarps);
    const int64_t chunk = blockIdx.x, first = chunk * kRowChunk + 4 * threadIdx.x;
    const int64_t last = min(p.C, (chunk + 1) * kRowChunk);
    for (int64_t row = blockIdx.y; row < p.R; row += gridDim.y) {
        const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
        const double value = block_reduce(fold_row(p, x, first, last, kThreads), Folding{p.kind}, scratch);
        if (threadIdx.x == 0) put(p, row, chunk, value);
    }
}

/// Warp w of a block takes rows w, w + 8, ... of the chunk, each lane four columns.
template <class T>
__global__ void __launch_bounds__(kThreads) reduce_columns(Lines p) {
    SHARED_ARRAY(double, scratch, 4 * kThreads);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    const int64_t c = 4 * (static_cast<int64_t>(blockIdx.x) * 32 + lane);
    const Folding folding{p.kind};
    const bool whole = p.aligned && c + 4 <= p.C;
    for (int64_t chunk = blockIdx.y; chunk < ceil_div(p.R, kColumnChunk) || chunk == 0; chunk += gridDim.y) {
        double value[4] = {folding.start(), folding.start(), folding.start(), folding.start()};
        const int64_t last = min(p.R, (chunk + 1) * kColumnChunk);
#pragma unroll 2
        for (int64_t row = chunk * kColumnChunk + thread / 32; row < last; row += kWarps) {
            const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
            const Quad q = whole ? load_quad<true>(x, c, p.C) : load_quad<false>(x, c, p.C);
#pragma unroll
            for (int i = 0; i < 4; ++i) value[i] = folding.fold(value[i], q.e[i]);
        }
        for (int i = 0; i < 4; ++i) scratch[i * kThreads + thread] = value[i];
        __syncthreads();
        if (thread < 32) {
            for (int i = 0; i < 4; ++i) {
                for (int w = 1; w < kWarps; ++w)
                    value[i] = folding(value[i], static_cast<double>(scratch[i * kThreads + 32 * w + lane]));
                if (c + i < p.C) put(p, c + i, chunk, value[i]);
            }
        }
        __syncthreads();
    }
}

/// A warp per line.
__global__ void __launch_bounds__(kThreads) reduce_parts(Lines p, int64_t chunks) {
    const int64_t line = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (line >= p.lines) return;
    const Folding folding{p.kind};
    double value = folding.start();
    for (int64_t i = threadIdx.x % 32; i < chunks; i += 32) value = folding(value, p.parts[i * p.lines + line]);
    value = warp_reduce(value, folding);
    if (threadIdx.x % 32 == 0) finish(p, line, value);
}

bool by_row(const Reduce& p) {
    return p.axis == ReduceAxis::columns;
}

int64_t chunks(const Reduce& p) {
    return by_row(p) ? ceil_div(p.x.shape[1], kRowChunk) : ceil_div(p.x.shape[0], kColumnChunk);
}

size_t workspace(const Reduce& p, const Stream&) {
    return chunks(p) > 1 ? workspace_bytes<double>(chunks(p) * p.y.shape[0]) : 0;
}

unsigned grid_rows(int64_t n) {
    return static_cast<unsigned>(n < kMostGridRows ? n : kMostGridRows);
}

template <class T>
Status first_stage(const Reduce& p, const Lines& l, const Stream& stream) {
    if (!by_row(p)) {
        const unsigned tiles = static_cast<unsigned>(ceil_div(l.C, 128)),
                       rows = grid_rows(chunks(p) > 0 ? chunks(p) : 1);
        return launch("reduce columns", stream, {.blocks = dim3(tiles, rows), .threads = kThreads}, reduce_columns<T>,
                      l);
    }
    if (l.C <= kShortRow) {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(l.R, kWarps))), .threads = kThreads};
        return launch("reduce rows", stream, grid, reduce_short_rows<T>, l);
    }
    const Grid grid{.blocks = dim3(static_cast<unsigned>(chunks(p)), grid_rows(l.R)), .threads = kThreads};
    return launch("reduce long rows", stream, grid, reduce_long_rows<T>, l);
}

Status run(const Reduce& p, const Stream& stream, Workspace w) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1], n = chunks(p), lines = by_row(p) ? R : C;
    const Lines l{p.x.data,
                  p.y.as<float>(),
                  n > 1 ? w.take<double>(n * lines) : nullptr,
                  p.x.stride[0],
                  lines,
                  R,
                  C,
                  static_cast<double>(by_row(p) ? C : R),
                  p.kind,
                  rows_aligned(p.x),
                  p.accumulate};
    NOEMA_TRY(p.x.dtype == DType::bf16 ? first_stage<bf16>(p, l, stream) : first_stage<float>(p, l, stream));
    if (!l.parts) return {};
    return launch("reduce chunks", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(lines, kWarps))), .threads = kThreads}, reduce_parts,
                  l, n);
}

}  // namespace

Op<Reduce> reduce_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
