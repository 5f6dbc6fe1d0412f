// One side of a product, and how a block brings slabs of it into shared memory.
#pragma once

#include "device.h"
#include "noema/tensor.h"

namespace noema::cuda {

/// Which way memory is contiguous, and how it travels. staged: any type and alignment, through registers, converted on the
/// way. async: bf16 whose rows all start at multiples of 16 bytes (Operand::vector), by cp.async.
enum class Source : uint8_t { staged_depth, staged_lines, async_depth, async_lines };
constexpr bool is_async(Source s) {
    return s == Source::async_depth || s == Source::async_lines;
}
/// Elements of one line lie side by side: memory is [lines, K], else [K, lines].
constexpr bool along_depth(Source s) {
    return s == Source::staged_depth || s == Source::async_depth;
}

/// `lines` rows (columns) of C, each with its K factors.
struct Operand {
    const void* data = nullptr;
    int64_t stride = 0;             // in elements, from one row of memory to the next
    const int32_t* rows = nullptr;  // when given, line i is row rows[i] of memory (along_depth only)
    int lines = 0;
    bool is_bf16 = false;
    bool vector = false;  // every row of memory starts at a multiple of 16 bytes
};

inline Operand operand(const View& v, int64_t lines) {
    const bool bf16_values = v.dtype == DType::bf16;
    const bool vector = reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && v.stride[0] * (bf16_values ? 2 : 4) % 16 == 0;
    return {v.data, v.stride[0], nullptr, static_cast<int>(lines), bf16_values, vector};
}

/// A matrix as bf16 whose rows start at multiples of 16 bytes: as matmul_pack lays it out.
inline int64_t bf16_pitch(const View& v) {
    return (v.shape[1] + 7) / 8 * 8;
}
inline Operand bf16_operand(const View& v, const void* values, int64_t lines) {
    return {values, bf16_pitch(v), nullptr, static_cast<int>(lines), true, true};
}

/// Eight neighbours as they lie in memory: bf16 fill the first half.
struct Raw {
    uint4 half[2];
};

__device__ __forceinline__ Raw load_eight(const unsigned char* at, int count, bool is_bf16, bool vector) {
    Raw raw = {};
    if (count >= 8 && vector) {
        raw.half[0] = *reinterpret_cast<const uint4*>(at);
        if (!is_bf16) raw.half[1] = *reinterpret_cast<const uint4*>(at + 16);
        return raw;
    }
    uint32_t word[8] = {};
    if (is_bf16) {
        const auto* from = reinterpret_cast<const uint16_t*>(at);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < count) word[i / 2] |= static_cast<uint32_t>(from[i]) << (16 * (i % 2));
    } else {
        const auto* from = reinterpret_cast<const uint32_t*>(at);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < count) word[i] = from[i];
    }
    raw.half[0] = {word[0], word[1], word[2], word[3]};
    raw.half[1] = {word[4], word[5], word[6], word[7]};
    return raw;
}

__device__ __forceinline__ void to_floats(const Raw& raw, bool is_bf16, float (&x)[8]) {
    const uint32_t word[8] = {raw.half[0].x, raw.half[0].y, raw.half[0].z, raw.half[0].w,
                              raw.half[1].x, raw.half[1].y, raw.half[1].z, raw.half[1].w};
#pragma unroll
    for (int i = 0; i < 8; ++i)
        x[i] =
            is_bf16 ? __uint_as_float(i % 2 ? word[i / 2] & 0xFFFF0000u : word[i / 2] << 16) : __uint_as_float(word[i]);
}

__device__ __forceinline__ uint4 to_bf16s(const Raw& raw, bool is_bf16) {
    if (is_bf16) return raw.half[0];
    float x[8];
    to_floats(raw, false, x);
    return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}

/// A block's way of copying slabs of kLines lines x kDepth factors, in pieces of eight neighbours; what lies beyond the lines
/// or beyond `end` becomes zero. In shared memory bf16 keep the order of memory ([line][k] or [k][line]), f32 are [k][line].
template <int kLines, int kDepth, Source kSource, int kThreads>
class SlabLoader {
 public:
    static constexpr bool kAlongDepth = along_depth(kSource);
    static constexpr int kOuter = kAlongDepth ? kLines : kDepth, kInner = kAlongDepth ? kDepth : kLines;
    static constexpr int kInRow = kInner / 8, kTotal = kOuter * kInRow, kPieces = (kTotal + kThreads - 1) / kThreads;
    // Eight rows of a matrix as ldmatrix reads it then lie in different banks.
    static constexpr int kPitch = kInner + 8, kElements = kOuter * kPitch;
    // f32, read by float4; transposed stores meet twice in a bank.
    static constexpr int kPitchF32 = kLines + 4, kElementsF32 = kDepth * kPitchF32;
    static_assert(kInner % 8 == 0);

    __device__ __forceinline__ SlabLoader(const Operand& of, int line, int begin, int end)
        : of_(of), line_(line), begin_(begin), end_(end) {
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
            int64_t row = kAlongDepth ? line + outer(j) : begin + outer(j);
            if constexpr (kAlongDepth)
                if (of.rows) row = row < of.lines ? of.rows[row] : 0;
            const int64_t element = row * of.stride + (kAlongDepth ? begin : line) + inner(j);
            source_[j] = static_cast<const unsigned char*>(of.data) + element * (of.is_bf16 ? 2 : 4);
        }
    }

    /// Starts the copies of the slab at k.
    __device__ __forceinline__ void copy(int k, Shared<bf16> tile) const {
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
            if (kTotal % kThreads && piece(j) >= kTotal) continue;
            const int bytes = 2 * min(max(count(j, k), 0), 8);
            copy_async_16(tile + (outer(j) * kPitch + inner(j)),
                          bytes ? at(j, k) : static_cast<const unsigned char*>(of_.data), bytes);
        }
    }

    __device__ __forceinline__ void fetch(int k) {
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
            if (kTotal % kThreads && piece(j) >= kTotal) continue;
            raw_[j] = load_eight(at(j, k), count(j, k), of_.is_bf16, of_.vector);
        }
    }
    /// What fetch() brought.
    __device__ __forceinline__ void store(Shared<bf16> tile) const {
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
            if (kTotal % kThreads && piece(j) >= kTotal) continue;
            tile.template as<uint4>()[(outer(j) * kPitch + inner(j)) / 8] = to_bf16s(raw_[j], of_.is_bf16);
        }
    }
    __device__ __forceinline__ void store(Shared<float> tile) const {
#pragma unroll
        for (int j = 0; j < kPieces; ++j) {
            if (kTotal % kThreads && piece(j) >= kTotal) continue;
            float x[8];
            to_floats(raw_[j], of_.is_bf16, x);
            if constexpr (kAlongDepth) {
#pragma unroll
                for (int i = 0; i < 8; ++i) tile[(inner(j) + i) * kPitchF32 + outer(j)] = x[i];
            } else {
                const int at = (outer(j) * kPitchF32 + inner(j)) / 4;
                tile.template as<float4>()[at] = make_float4(x[0], x[1], x[2], x[3]);
                tile.template as<float4>()[at + 1] = make_float4(x[4], x[5], x[6], x[7]);
            }
        }
    }

 private:
    __device__ __forceinline__ static int piece(int j) {
        return static_cast<int>(threadIdx.x) + j * kThreads;
    }
    __device__ __forceinline__ static int outer(int j) {
        return piece(j) / kInRow;
    }
    __device__ __forceinline__ static int inner(int j) {
        return piece(j) % kInRow * 8;
    }

    __device__ __forceinline__ const unsigned char* at(int j, int k) const {
        return source_[j] + (k - begin_) * (kAlongDepth ? 1 : of_.stride) * (of_.is_bf16 ? 2 : 4);
    }
    /// Elements of the piece that exist; may be negative or more than eight.
    __device__ __forceinline__ int count(int j, int k) const {
        if constexpr (kAlongDepth) return line_ + outer(j) < of_.lines ? end_ - k - inner(j) : 0;
        return k + outer(j) < end_ ? of_.lines - line_ - inner(j) : 0;
    }

    const Operand& of_;
    const int line_, begin_, end_;
    const unsigned char* source_[kPieces];
    Raw raw_[is_async(kSource) ? 1 : kPieces];
};

}  // namespace noema::cuda
