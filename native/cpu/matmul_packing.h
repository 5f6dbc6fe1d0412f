// How matrices lie in memory while they are multiplied, and the copies into that form.
//
// Columns of op(B) are packed by panels of 16, one 64-byte step after the other, so that every kernel reads one cache
// line per step and panel and the next line is the next address:
//
//   f32         step k:  B[k, n .. n+15]                                      K steps
//   bf16_pairs  step s:  B[2s, n], B[2s+1, n], B[2s, n+1], ...  as bf16       ceil(K/32)*16 steps
//
// The second form is what vdpbf16ps multiplies, 16 steps of it are one AMX tile, and shift and mask turn it into two
// vectors of f32. What lies beyond K (up to the multiple of 32) and beyond N (up to 16) is zero.
//
// Rows of op(A) are packed by blocks of 256 steps, row after row at a fixed pitch. The 64 bytes by which the pitch
// exceeds a block keep rows from meeting in one set of the first-level cache.
#pragma once

#include "noema/ops/matmul.h"

namespace noema::cpu {

enum class Packing : uint8_t {
    f32,
    bf16_pairs,
    f32_of_bf16,  // rows only: f32 values already rounded to bf16, for kernels without bf16 arithmetic
};

constexpr int64_t kPanelColumns = 16;
constexpr int64_t kStepBytes = 64;
constexpr int64_t kBlockSteps = 256;

constexpr int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

constexpr Packing panel_packing(Precision precision) {
    return precision == Precision::bf16 ? Packing::bf16_pairs : Packing::f32;
}

/// How many k one step of a panel holds.
constexpr int64_t step_depth(Packing packing) {
    return packing == Packing::f32 ? 1 : 2;
}

/// Steps of a panel for a sum of K terms.
constexpr int64_t panel_steps(int64_t K, Packing packing) {
    return packing == Packing::f32 ? K : divide_up(K, 32) * 16;
}

/// Bytes from a packed row to the next.
constexpr int64_t row_pitch(Packing packing) {
    return kBlockSteps * (packing == Packing::f32_of_bf16 ? 8 : 4) + 64;
}

/// A factor as a product reads it: `lines` (rows of op(A), columns of op(B)) of K values each.
struct Factor {
    const void* data;
    DType dtype;         // f32 or bf16
    int64_t pitch;       // elements from one row of memory to the next
    bool depth_is_last;  // [lines, K] in memory, else [K, lines]
    int64_t lines;
    int64_t K;
};

/// Which part of a factor is packed.
struct Part {
    int64_t line;
    int64_t lines;
    int64_t step;
    int64_t steps;
};

/// Packs panels; part.line is a multiple of 16. Panel i of the part goes to out + i * panel_bytes.
void pack_panels(const Factor& b, Packing packing, const Part& part, std::byte* out, int64_t panel_bytes);

/// Packs rows of one block (part.steps <= 256); row i of the part goes to out + i * row_pitch(packing).
void pack_rows(const Factor& a, Packing packing, const Part& part, std::byte* out);

}  // namespace noema::cpu
