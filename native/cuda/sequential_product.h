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

/// CUDA cores: the same factors of its line for every one of at most kRows rows.
template <int kRows>
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
        for (int m = 0; m < kRows; ++m) {
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
        for (int m = 0; m < kRows; ++m) {
            if (m >= rows) break;
            const float sum = warp_reduce(sums[m], Sum{}, 4);
            if (lane % 4 == m % 4) to[m * kGroupLines + lane / 4] = sum;
        }
    }

    float sums[kRows] = {};
};

/// A warp's part of a product: chunk [first, last) of K of every sides-th group of lines, from its `side` on.
struct WarpPart {
    int chunks, chunk, side, sides;
    Span factors;

    __device__ __forceinline__ explicit WarpPart(int K) : chunks(chunks_of(K)) {
        const int warp = static_cast<int>(threadIdx.x) / 32, length = whole_steps((K + chunks - 1) / chunks);
        chunk = warp % chunks, side = warp / chunks, sides = kSequentialWarps / chunks;
        factors = {chunk * length, min(K, (chunk + 1) * length)};
    }
    /// This warp's lines of a pass that begins at `first`.
    __device__ __forceinline__ Span lines(int first, int last) const {
        return {first + side * kGroupLines, min(last, first + kSlots / chunks * kGroupLines)};
    }
};

/// Groups that a warp takes side by side, the `batch`-th and the next of its lines: a lane's line of each.
template <class Sums>
class LineBatch {
 public:
    static constexpr int kBatch = Sums::kBatch;

    template <class LineOf>
    __device__ __forceinline__ LineBatch(const LineOf& line_at, const Span& lines, const WarpPart& part, int batch)
        : end_(part.factors.last) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
            const int i = lines.first + (batch + j) * part.sides * kGroupLines + static_cast<int>(threadIdx.x) % 32 / 4;
            inside_[j] = i < lines.last;
            line[j] = line_at(inside_[j] ? i : lines.first);
        }
    }
    /// A step's weights; none from the chunk's end on.
    __device__ __forceinline__ void fetch(int k, Raw (&raw)[kBatch]) const {
        const int at = k + static_cast<int>(threadIdx.x) % 4 * 8;
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
            const bool is_bf16 = Sums::kHalves || line[j].is_bf16;
            raw[j] =
                load_eight(line[j].at + at * (is_bf16 ? 2 : 4), inside_[j] ? end_ - at : 0, is_bf16, line[j].vector);
        }
    }

    Line line[kBatch];

 private:
    bool inside_[kBatch];
    const int end_;
};

/// The first weights of a product, in registers before the rows are known: while a block waits for others.
template <class Sums>
struct FirstWeights {
    Raw now[Sums::kBatch], next[Sums::kBatch];
    bool there = false;

    /// After every product: what is written anew on every way to the next one needs no registers until then.
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int j = 0; j < Sums::kBatch; ++j) now[j] = next[j] = Raw{};
        there = false;
    }
    template <class LineOf>
    __device__ __forceinline__ void fetch(const Span& span, int K, const LineOf& line_at) {
        clear();
        const WarpPart part(K);
        const Span lines = part.lines(span.first, span.last);
        there = lines.first < lines.last;
        if (!there) return;
        const LineBatch<Sums> batch(line_at, lines, part, 0);
        batch.fetch(part.factors.first, now);
        batch.fetch(part.factors.first + kStep, next);
    }
};

/// A warp's lines of one pass. put(j): where group j's sums go.
template <class Sums, class LineOf, class Put>
__device__ __forceinline__ void add_groups(const FactorRows<typename Sums::Factor>& rows, const LineOf& line_at,
                                           const Span& lines, const WarpPart& part, FirstWeights<Sums>& first,
                                           const Put& put) {
    constexpr int kBatch = Sums::kBatch;
    const int apart = part.sides * kGroupLines;
    for (int at = 0; lines.first + at * apart < lines.last; at += kBatch) {
        const LineBatch<Sums> batch(line_at, lines, part, at);
        Sums sums[kBatch];
        Raw now[kBatch], next[kBatch];
        if (first.there) {
#pragma unroll
            for (int j = 0; j < kBatch; ++j) now[j] = first.now[j], next[j] = first.next[j];
            first.there = false;
        } else {
            batch.fetch(part.factors.first, now);
            batch.fetch(part.factors.first + kStep, next);
        }
        for (int k = part.factors.first; k < part.factors.last; k += kStep) {
            Sums::add(sums, now, batch.line, rows, k);
#pragma unroll
            for (int j = 0; j < kBatch; ++j) now[j] = next[j];
            if (k + 2 * kStep < part.factors.last) batch.fetch(k + 2 * kStep, next);
        }
#pragma unroll
        for (int j = 0; j < kBatch; ++j)
            if (lines.first + (at + j) * apart < lines.last) sums[j].store(put(at + j), rows.count);
    }
}

/// The products of all rows with the lines `span`, line_at(i) being line i; finish(row, i, low, high) takes those of lines i (even, counted
/// from span.first) and i + 1, which may not exist. first: weights of this very product that are there already, if any. `scratch`:
/// kSumsBytes. All threads of the block; the rows are there for all of them before, and a barrier stands at the end.
template <class Sums, class LineOf, class Finish>
__device__ __forceinline__ void multiply_lines(const FactorRows<typename Sums::Factor>& rows, int K, const Span& span,
                                               const LineOf& line_at, FirstWeights<Sums>& first, Shared<float> scratch,
                                               const Finish& finish) {
    const WarpPart part(K);
    const int chunks = part.chunks, pass = kSlots / chunks * kGroupLines;
    for (int begin = span.first; begin < span.last; begin += pass) {
        const int end = min(span.last, begin + pass);
        add_groups<Sums>(rows, line_at, part.lines(begin, end), part, first, [&](int j) {
            return scratch + ((part.side + j * part.sides) * chunks + part.chunk) * kSlotFloats;
        });
        __syncthreads();
        const int pairs = (end - begin + kGroupLines - 1) / kGroupLines * (kGroupLines / 2);
        for (int item = static_cast<int>(threadIdx.x); item < pairs * rows.count; item += kSequentialThreads) {
            const int pair = item % pairs, m = item / pairs, i = begin + 2 * pair;
            if (i >= end) continue;
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
    first.clear();
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
