// Products of a block's few rows with lines of a weight, as the persistent kernel of sequential_inverse makes them: the rows lie in shared
// memory, the lines come straight from memory into registers, 16 bytes a lane, each once for all rows.
//
// The law of sums: K alone says into how many chunks it is cut (chunks_of). A chunk's sum runs through its factors 32 by 32, and the
// chunks' sums are added in order. So a row's result depends neither on the other rows nor on who has which lines.
#pragma once

#include "common/operand.h"
#include "common/reduce.h"

namespace noema::cuda {

constexpr int kSequentialThreads = 256, kSequentialWarps = kSequentialThreads / 32;
/// Rows of one product: those of one mma.
constexpr int kTileRows = 16;
/// Lines that a warp takes side by side: four lanes share a line, and read 64 (f32: 128) neighbouring bytes of it in a step.
constexpr int kGroupLines = 8, kStep = 32;
/// A pass leaves so many groups of sums, one per group of lines and chunk, in shared memory.
constexpr int kSlots = 64, kSlotFloats = kTileRows * kGroupLines, kSumsBytes = kSlots * kSlotFloats * 4;

/// A chunk per warp, but none under one step.
__host__ __device__ constexpr int chunks_of(int K) {
    return K >= 256 ? 8 : K >= 128 ? 4 : K >= 64 ? 2 : 1;
}
__host__ __device__ constexpr int whole_steps(int K) {
    return (K + kStep - 1) / kStep * kStep;
}
/// From one row of factors to the next. 16-bit rows lie half the banks apart, so that two of them can be read at once.
template <class Factor>
__host__ __device__ constexpr int factor_pitch(int K) {
    return sizeof(Factor) == 2 ? (K + 63) / 64 * 64 + 32 : whole_steps(K);
}

/// Factors in shared memory, with zeros from K to whole_steps(K).
template <class Factor>
struct FactorRows {
    Shared<Factor> data;
    int pitch, count;
};

/// Where a line's factors lie.
struct Line {
    const unsigned char* at;
    bool is_bf16, vector;  // vector: at a multiple of 16 bytes, from `at` on
};
/// Line i of a weight, from `column` on.
__device__ __forceinline__ Line line_of(const Operand& w, int i, int column = 0) {
    const int size = w.is_bf16 ? 2 : 4;
    return {static_cast<const unsigned char*>(w.data) + (i * w.stride + column) * size, w.is_bf16,
            w.vector && column * size % 16 == 0};
}

/// Lines [first, last).
struct Span {
    int first, last;
};
/// The part of `lines` that is the `who`-th of `of` blocks': whole groups.
__device__ __forceinline__ Span span_of(int lines, int who, int of) {
    const int groups = (lines + kGroupLines - 1) / kGroupLines;
    return {groups * who / of * kGroupLines, min(lines, groups * (who + 1) / of * kGroupLines)};
}

/// Tensor cores, factors and weights bf16. mma adds up in an order of its own over its 16 factors, so it does not matter which of them
/// a lane's two registers hold, as long as both sides agree: lane t of a line has factors 8 t to 8 t + 7 of the 32.
struct TensorSums {
    using Factor = bf16;
    static constexpr int kBatch = 4;
    static constexpr bool kHalves = true;

    __device__ __forceinline__ static void add(TensorSums (&sums)[kBatch], const Raw (&weights)[kBatch],
                                               const Line (&)[kBatch], const FactorRows<bf16>& rows, int k) {
        const int lane = static_cast<int>(threadIdx.x) % 32, column = k + lane % 4 * 8;
        const auto row = [&](int m) -> uint4 {
            return rows.data.as<uint4>()[(min(m, rows.count - 1) * rows.pitch + column) / 8];
        };
        const uint4 low = row(lane / 4), high = row(lane / 4 + 8);
        const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
            const uint4 w = weights[j].half[0];
            const uint32_t b[2] = {w.x, w.y}, b_second[2] = {w.z, w.w};
            mma_16x8x16(sums[j].sums, first, b);
            mma_16x8x16(sums[j].sums, second, b_second);
        }
    }
    __device__ __forceinline__ void store(Shared<float> to, int) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < 4; ++i) to[(lane / 4 + i / 2 * 8) * kGroupLines + lane % 4 * 2 + i % 2] = sums[i];
    }

    float sums[4] = {0, 0, 0, 0};
};

/// CUDA cores: the same factors of its line for every row.
struct FmaSums {
    using Factor = float;
    static constexpr int kBatch = 2;
    static constexpr bool kHalves = false;

    __device__ __forceinline__ static void add(FmaSums (&sums)[kBatch], const Raw (&weights)[kBatch],
                                               const Line (&lines)[kBatch], const FactorRows<float>& rows, int k) {
        float w[kBatch][8];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) to_floats(weights[j], lines[j].is_bf16, w[j]);
        const int column = k + static_cast<int>(threadIdx.x) % 4 * 8;
#pragma unroll
        for (int m = 0; m < kTileRows; ++m) {
            if (m >= rows.count) break;
            const int at = (m * rows.pitch + column) / 4;
            const float4 x = rows.data.as<float4>()[at], y = rows.data.as<float4>()[at + 1];
            const float factors[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
#pragma unroll
            for (int j = 0; j < kBatch; ++j)
#pragma unroll
                for (int i = 0; i < 8; ++i) sums[j].sums[m] = fmaf(factors[i], w[j][i], sums[j].sums[m]);
        }
    }
    __device__ __forceinline__ void store(Shared<float> to, int rows) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int m = 0; m < kTileRows; ++m) {
            if (m >= rows) break;
            const float sum = warp_reduce(sums[m], Sum{}, 4);
            if (lane % 4 == m % 4) to[m * kGroupLines + lane / 4] = sum;
        }
    }

    float sums[kTileRows] = {};
};

/// One warp's groups of a pass: from line `first` on, `apart` lines between them, chunk [begin, end) of K. put(j): where group j's sums go.
template <class Sums, class LineOf, class Put>
__device__ __forceinline__ void add_groups(const FactorRows<typename Sums::Factor>& rows, const LineOf& line_at,
                                           const Span& lines, int apart, const Span& chunk, const Put& put) {
    constexpr int kBatch = Sums::kBatch;
    const int lane = static_cast<int>(threadIdx.x) % 32, own = lane % 4 * 8;
    for (int batch = 0; lines.first + batch * apart < lines.last; batch += kBatch) {
        Line line[kBatch];
        bool inside[kBatch];
        Sums sums[kBatch];
        Raw now[kBatch], next[kBatch];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
            const int i = lines.first + (batch + j) * apart + lane / 4;
            inside[j] = i < lines.last;
            line[j] = line_at(inside[j] ? i : lines.first);
        }
        const auto fetch = [&](int k, Raw(&raw)[kBatch]) {
#pragma unroll
            for (int j = 0; j < kBatch; ++j) {
                const bool is_bf16 = Sums::kHalves || line[j].is_bf16;
                raw[j] = load_eight(line[j].at + (k + own) * (is_bf16 ? 2 : 4), inside[j] ? chunk.last - k - own : 0,
                                    is_bf16, line[j].vector);
            }
        };
        fetch(chunk.first, now);
        for (int k = chunk.first; k < chunk.last; k += kStep) {
            if (k + kStep < chunk.last) fetch(k + kStep, next);
            Sums::add(sums, now, line, rows, k);
#pragma unroll
            for (int j = 0; j < kBatch; ++j) now[j] = next[j];
        }
#pragma unroll
        for (int j = 0; j < kBatch; ++j)
            if (lines.first + (batch + j) * apart < lines.last) sums[j].store(put(batch + j), rows.count);
    }
}

/// The products of all rows with the lines `span`, line_at(i) being line i; finish(row, i, low, high) takes those of lines i (even, counted
/// from span.first) and i + 1, which may not exist. `scratch`: kSumsBytes. All threads of the block; the rows are there for all of
/// them before, and a barrier stands at the end.
template <class Sums, class LineOf, class Finish>
__device__ __forceinline__ void multiply_lines(const FactorRows<typename Sums::Factor>& rows, int K, const Span& span,
                                               const LineOf& line_at, Shared<float> scratch, const Finish& finish) {
    const int chunks = chunks_of(K), length = whole_steps((K + chunks - 1) / chunks);
    const int warp = static_cast<int>(threadIdx.x) / 32, chunk = warp % chunks, side = warp / chunks,
              sides = kSequentialWarps / chunks;
    const int pass_lines = kSlots / chunks * kGroupLines;
    for (int first = span.first; first < span.last; first += pass_lines) {
        const int last = min(span.last, first + pass_lines);
        add_groups<Sums>(rows, line_at, {first + side * kGroupLines, last}, sides * kGroupLines,
                         {chunk * length, min(K, (chunk + 1) * length)},
                         [&](int j) { return scratch + ((side + j * sides) * chunks + chunk) * kSlotFloats; });
        __syncthreads();
        const int pairs = (last - first + kGroupLines - 1) / kGroupLines * (kGroupLines / 2);
        for (int item = static_cast<int>(threadIdx.x); item < pairs * rows.count; item += kSequentialThreads) {
            const int pair = item % pairs, m = item / pairs, i = first + 2 * pair;
            if (i >= last) continue;
            const int at = pair / (kGroupLines / 2) * chunks * kSlotFloats + m * kGroupLines + 2 * pair % kGroupLines;
            float2 sum = scratch.as<float2>()[at / 2];
            for (int c = 1; c < chunks; ++c) {
                const float2 next = scratch.as<float2>()[(at + c * kSlotFloats) / 2];
                sum = make_float2(sum.x + next.x, sum.y + next.y);
            }
            finish(m, i, sum.x, sum.y);
        }
        __syncthreads();
    }
}

/// Asks for a block's lines ahead of time, while it waits for others: up to 256 KB of them.
template <class LineOf>
__device__ __forceinline__ void prefetch_lines(const Span& span, int K, const LineOf& line_at) {
    constexpr int kPieces = 8, kPiece = 128;
    if (span.first >= span.last) return;
    const int in_line = (K * (line_at(span.first).is_bf16 ? 2 : 4) + kPiece - 1) / kPiece;
    const int count = min((span.last - span.first) * in_line, kPieces * kSequentialThreads);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kSequentialThreads)
        prefetch(line_at(span.first + i / in_line).at + i % in_line * kPiece);
}

}  // namespace noema::cuda
