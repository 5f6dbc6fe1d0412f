// Gradients of what all rows of a sequence, or of the whole matrix, share: rows are cut into chunks that never cross a
// sequence's end, by shape alone; a block adds up a chunk's rows into a row of its own, and those are added in order.
#pragma once

#include "common/launch.h"
#include "common/reduce.h"

namespace noema::cuda {

/// Some 512 chunks (four blocks for each multiprocessor of a large GPU) once there are 4096 rows, never under 8 rows: the chunks' own
/// rows are then at most 1/8 of what is read.
struct RowChunks {
    static constexpr int64_t kMost = 512, kFewestRows = 8;

    int64_t rows;
    int64_t rows_per_sequence;  // at most rows
    int64_t chunk_rows;
    int64_t per_sequence;  // chunks

    static RowChunks of(int64_t rows, int64_t rows_per_sequence) {
        const int64_t most = rows > 0 ? rows : 1, S = rows_per_sequence < most ? rows_per_sequence : most;
        const int64_t chunk = kFewestRows * ceil_div(most, kMost * kFewestRows);
        return {rows, S, chunk, ceil_div(S, chunk)};
    }
    int64_t sequences() const { return ceil_div(rows, rows_per_sequence); }
    int64_t count() const { return sequences() * per_sequence; }

    // Chunks are blocks of a grid: their numbers fit 32 bits, whose division is five times cheaper.
    __device__ int64_t sequence(int64_t chunk) const {
        return static_cast<uint32_t>(chunk) / static_cast<uint32_t>(per_sequence);
    }
    /// [first, last) of a chunk's rows: none where a shorter last sequence has no such chunk.
    __device__ int64_t first(int64_t chunk) const {
        const int64_t b = sequence(chunk), at = b * rows_per_sequence + (chunk - b * per_sequence) * chunk_rows;
        return at < rows ? at : rows;
    }
    __device__ int64_t last(int64_t chunk) const {
        const int64_t end = (sequence(chunk) + 1) * rows_per_sequence, at = first(chunk) + chunk_rows;
        const int64_t mine = at < end ? at : end;
        return mine < rows ? mine : rows;
    }
};

/// Blocks that add up columns: 32 columns each, every warp takes its share of the terms.
struct ColumnTile {
    static constexpr int kColumns = 32, kWarps = 16, kThreads = kColumns * kWarps;

    static unsigned tiles(int64_t C) { return static_cast<unsigned>(ceil_div(C, kColumns)); }
    static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kColumns; }
    static __device__ __forceinline__ int64_t column() { return static_cast<int64_t>(blockIdx.x) * kColumns + lane(); }

    /// term(i) summed over [0, n), a fixed order whatever runs beside it; every thread of the block takes part, warp 0
    /// gets its columns' sums. scratch: kThreads.
    template <class T, class Term>
    static __device__ __forceinline__ T sum(int64_t n, Shared<T> scratch, Term term) {
        const int warp = static_cast<int>(threadIdx.x) / kColumns;
        T mine = 0;
#pragma unroll 4
        for (int64_t i = warp; i < n; i += kWarps) mine += term(i);
        scratch[warp * kColumns + lane()] = mine;
        __syncthreads();
        T all = 0;
        if (warp == 0)
            for (int w = 0; w < kWarps; ++w) all += static_cast<T>(scratch[w * kColumns + lane()]);
        __syncthreads();
        return all;
    }
};

/// `to` [groups rows, `stride` apart] = (or +=) the sum of each group's n consecutive rows of `parts` [groups * n, C].
struct ColumnSums {
    const float* parts;
    int64_t groups, n, C;
    float* to;
    int64_t stride;
    bool accumulate;
};
Status column_sums(const ColumnSums& sums, const Stream& stream);

}  // namespace noema::cuda
