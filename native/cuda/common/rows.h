// Ops whose every row needs sums over itself: a warp per row while rows are short, else a block per row, and the row in
// registers between the passes over it while it fits.
#pragma once

#include "common/quads.h"
#include "common/reduce.h"

namespace noema::cuda {

constexpr int kRowThreads = 256, kRowWarps = kRowThreads / 32;

/// kWidth threads share a row; quad q of thread t starts at column 4 (q kWidth + t). kQuads: what a thread keeps of a row; 0: rows
/// are too long, and read anew. kWhole: rows consist of aligned quads.
template <int width, int quads, bool whole>
struct RowShape {
    static constexpr int kWidth = width, kQuads = quads, kKept = quads > 0 ? quads : 1;
    static constexpr bool kWhole = whole;
    static constexpr int kRowsAtOnce = kRowThreads / kWidth;  // of a block

    static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x) % kWidth; }
    /// Which of the block's rows at once is this thread's.
    static __device__ __forceinline__ int group() { return static_cast<int>(threadIdx.x) / kWidth; }

    /// f(q, c) for this thread's quads.
    template <class F>
    static __device__ __forceinline__ void each(int C, F f) {
        if constexpr (kQuads > 0) {
#pragma unroll
            for (int q = 0; q < kQuads; ++q) {
                const int c = 4 * (q * kWidth + thread());
                if (c < C) f(q, c);
            }
        } else {
            for (int c = 4 * thread(); c < C; c += 4 * kWidth) f(0, c);
        }
    }

    /// Sums over the row's threads, n at once. scratch: n * kRowWarps.
    template <int n>
    static __device__ __forceinline__ void sum(float (&values)[n], Shared<float> scratch) {
#pragma unroll
        for (int i = 0; i < n; ++i) values[i] = warp_reduce(values[i], Sum{});
        if constexpr (kWidth > 32) {
            const int warp = static_cast<int>(threadIdx.x) / 32;
            if (threadIdx.x % 32 == 0)
                for (int i = 0; i < n; ++i) scratch[i * kRowWarps + warp] = values[i];
            __syncthreads();
#pragma unroll
            for (int i = 0; i < n; ++i) {
                values[i] = scratch[i * kRowWarps];
                for (int w = 1; w < kRowWarps; ++w) values[i] += static_cast<float>(scratch[i * kRowWarps + w]);
            }
            __syncthreads();
        }
    }
    static __device__ __forceinline__ float sum(float value, Shared<float> scratch) {
        float values[1] = {value};
        sum(values, scratch);
        return values[0];
    }
};

/// This thread's part of a row.
template <class S>
class Row {
 public:
    __device__ __forceinline__ Row(const float* row, int C) : row_(row), C_(C) {
        if constexpr (S::kQuads > 0) S::each(C, [&](int q, int c) { kept_[q] = load_quad<S::kWhole>(row, c, C); });
    }
    __device__ __forceinline__ Quad operator()(int q, int c) const {
        if constexpr (S::kQuads > 0)
            return kept_[q];
        else
            return load_quad<S::kWhole>(row_, c, C_);
    }

 private:
    const float* row_;
    int C_;
    Quad kept_[S::kKept];
};

/// Sums over a chunk's rows, column by column: each thread adds to its own columns, in registers where a row fits there, else in the
/// chunk's row `part` itself.
template <class S>
class ColumnTotals {
 public:
    __device__ __forceinline__ ColumnTotals(float* part, int C) : part_(part), C_(C) {
        S::each(C, [&](int q, int c) { put(q, c, filled(0)); });
    }
    __device__ __forceinline__ void add(int q, int c, const Quad& v) {
        put(q, c, map([](float a, float b) { return a + b; }, get(q, c), v));
    }
    /// Writes the chunk's row; every thread of the block takes part. scratch: kRowThreads quads.
    __device__ __forceinline__ void finish(Shared<float4> scratch) {
        if constexpr (S::kQuads > 0 && S::kWidth == 32) {
#pragma unroll
            for (int q = 0; q < S::kQuads; ++q) add_warps(q, scratch);
        }
        if constexpr (S::kQuads > 0) {
            if (S::kWidth > 32 || S::group() == 0)
                S::each(C_, [&](int q, int c) { store_quad<S::kWhole>(part_, c, C_, total_[q]); });
        }
    }

 private:
    __device__ __forceinline__ Quad get(int q, int c) const {
        if constexpr (S::kQuads > 0)
            return total_[q];
        else
            return load_quad<S::kWhole>(part_, c, C_);
    }
    __device__ __forceinline__ void put(int q, int c, const Quad& v) {
        if constexpr (S::kQuads > 0)
            total_[q] = v;
        else
            store_quad<S::kWhole>(part_, c, C_, v);
    }
    /// Each warp had rows of its own: the first adds the others' totals to its own.
    __device__ __forceinline__ void add_warps(int q, Shared<float4> scratch) {
        if (128 * q >= C_) return;  // for all threads alike
        const Quad& t = total_[q];
        const bool inside = 4 * (32 * q + S::thread()) < C_;
        scratch[static_cast<int>(threadIdx.x)] =
            inside ? make_float4(t.e[0], t.e[1], t.e[2], t.e[3]) : make_float4(0, 0, 0, 0);
        __syncthreads();
        if (S::group() == 0) {
            for (int w = 1; w < kRowWarps; ++w) {
                const float4 v = scratch[32 * w + S::thread()];
                total_[q] = map([](float a, float b) { return a + b; }, total_[q], Quad{{v.x, v.y, v.z, v.w}});
            }
        }
        __syncthreads();
    }

    float* part_;
    int C_;
    Quad total_[S::kKept];
};

/// f(shape) with the RowShape for rows of C; aligned: rows_aligned() of all that is read and written in quads. Awkward
/// rows have fewer shapes (each is a kernel of its own per op), of the same widths: the same bits.
template <class F>
Status with_row_shape(int64_t C, bool aligned, const F& f) {
    constexpr int64_t kWarpMost = 1024;
    if (!aligned || C % 4 != 0) {
        if (C <= kWarpMost) return f(RowShape<32, 8, false>{});
        return f(RowShape<kRowThreads, 0, false>{});
    }
    if (C <= 256) return f(RowShape<32, 2, true>{});
    if (C <= kWarpMost) return f(RowShape<32, 8, true>{});
    if (C <= 4096) return f(RowShape<kRowThreads, 4, true>{});
    if (C <= 8192) return f(RowShape<kRowThreads, 8, true>{});
    return f(RowShape<kRowThreads, 0, true>{});
}

/// Blocks for one row per group.
template <class S>
Grid row_grid(int64_t rows) {
    return {.blocks = dim3(static_cast<unsigned>(ceil_div(rows, S::kRowsAtOnce))), .threads = kRowThreads};
}

}  // namespace noema::cuda
