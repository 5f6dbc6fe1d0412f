// The block kernels of attention, as the drivers (attention.cpp, attention_backward.cpp) see them. The work on one
// block of queries and one block of keys is a handful of small products between packed operands:
//
//   scores = q kᵀ     out += P v           forward
//   d_P = d_out vᵀ    d_v += Pᵀ d_out      d_k += d_scoreᵀ q      d_q += d_score k
//
// Operands come in 4-byte words: a word is one f32, or two bf16 that are neighbours along the axis summed over. A left
// operand is read one word at a time and may be strided, a right operand holds vectors: [steps][columns].
#pragma once

#include <cstdint>

#include "cpu/cpu.h"
#include "cpu/tasks.h"

namespace noema::cpu {

/// Blocks of keys are cut at multiples of this position, always: the order of a row's sums follows from it.
constexpr int64_t kKeys = 128;
/// Queries that are treated together; a multiple of the 6 rows of a register tile. 48 x 128 scores are 24 KB.
constexpr int64_t kQueries = 48;
/// Packed rows are padded to whole vectors of the widest instruction set.
constexpr int64_t kPad = 16;

/// A maximum before the first score; unlike -inf it can be subtracted from -inf.
constexpr float kNoScore = -3.402823466e38f;

/// Rows [begin, end) of a block of D values each, `stride` apart. Rows outside read as zero and are never touched.
struct HeadRows {
    const float* data;  // row 0
    int64_t stride;
    int64_t begin, end;
    int64_t D;
};

/// c[rows, columns] = (or +=) left right; `steps` words are summed.
struct OperandProduct {
    int64_t rows, columns, steps;
    const void* left;
    int64_t left_row, left_step;  // distances in words
    const void* right;
    int64_t right_step;
    float* c;
    int64_t c_row;
    bool accumulate;
};

/// Rows go through the softmax four at a time, so that four reductions over lanes become one. The arrays of a block must
/// have room for whole groups; what max, sum and scores beyond the last row hold does not matter.
constexpr int64_t kGroup = 4;

/// The part of a block of scores that is worth computing: columns [first, last), multiples of kPad.
struct VisibleBlock {
    int64_t rows, first, last;
    bool whole;  // every row sees all of these columns
};

/// Online softmax. scores [rows][kKeys] become weights exp(scale (score - max)), as the left operand of P v.
struct SoftmaxBlock {
    VisibleBlock visible;
    float scale;
    float* scores;
    void* weights;  // may be `scores` when a word is one f32
    float* max;     // [rows] of the unscaled scores so far
    float* sum;     // [rows] of the weights so far
    float* out;     // [rows][padded D], rescaled when a maximum grows
    int64_t D;      // padded
};

/// From scores and d_P [rows][kKeys] to P and d_score = scale P (d_P - delta), each as an operand.
struct SoftmaxBackwardBlock {
    VisibleBlock visible;
    float scale;
    float* scores;
    float* d_weights;
    const float* lse;    // [rows]; +inf for a row without keys
    const float* delta;  // [rows] sum(d_out out)
    // Left operands: `_t` [rows summed][kKeys] words, the other [rows][keys summed]. With f32 words the two forms are
    // one, and they may lie in `scores` and `d_weights`.
    void* weights_t;
    void* d_scores_t;
    void* d_scores;
};

struct AttentionKernels {
    int64_t per_word;  // values in a word: 1 or 2
    /// [rows][padded D], a left operand summed over D. Writes all rows in [0, count).
    void (*pack_left)(const HeadRows&, int64_t count, void* to);
    /// [D words][kKeys], a right operand summed over D; may write up to padded D words.
    void (*pack_transposed)(const HeadRows&, void* to);
    /// [row words][padded D], a right operand summed over `count` rows.
    void (*pack_right)(const HeadRows&, int64_t count, void* to);
    void (*product)(const OperandProduct&);
    void (*softmax)(const SoftmaxBlock&);
    void (*softmax_backward)(const SoftmaxBackwardBlock&);
    /// sum over D of a and b, row by row.
    void (*row_dots)(const HeadRows& a, const HeadRows& b, float* sums);
    /// to[0..D) = row * factor.
    void (*scale_row)(const float* row, float factor, int64_t D, float* to);

    int64_t words(int64_t values) const { return (values + per_word - 1) / per_word; }
};

/// Highway's, f32 words; `rounding` rounds operands to bf16 on machines that lack bf16 products.
const AttentionKernels& attention_kernels_f32(bool rounding);
/// AVX512-BF16's, words of two bf16. Only where current_isa() has it.
const AttentionKernels& attention_kernels_bf16();
/// The kernels in force for a precision.
const AttentionKernels& attention_kernels(Precision precision);

/// What a driver needs of the shapes.
struct AttentionShape {
    int64_t B, Tq, Tk, H, Hkv, D, group, padded;

    AttentionShape(const View& q, const View& k)
        : B(q.shape[0]),
          Tq(q.shape[1]),
          Tk(k.shape[1]),
          H(q.shape[2]),
          Hkv(k.shape[2]),
          D(q.shape[3]),
          group(H / Hkv),
          padded((D + kPad - 1) / kPad * kPad) {}
    int64_t key_blocks() const { return (Tk + kKeys - 1) / kKeys; }
};

/// Keys that query i of sequence b sees, [low, high); every mask of the contract leaves one run.
struct KeyRun {
    int64_t low, high;
};
KeyRun visible_keys(const AttentionMask& mask, int64_t b, int64_t i, int64_t Tk);

/// One run over everything that queries [first, last) of sequence b see; theirs go to `runs`, when given.
KeyRun seen_keys(const AttentionMask& mask, int64_t b, int64_t first, int64_t last, int64_t Tk, KeyRun* runs);

/// Rows of key block n in keys or values [B,Tk,Hkv,D]. Keys that nobody of the task sees are neither read nor
/// multiplied: caches may hold anything there.
HeadRows key_rows(const View& v, int64_t b, int64_t g, int64_t n, const KeyRun& seen);

/// What a block of queries with these runs sees of key block n; first == last when that is nothing.
VisibleBlock visible_block(const KeyRun* runs, int64_t rows, int64_t n);

/// The op where p.one_by_one (attention_one_by_one.cpp).
size_t one_by_one_workspace(const Attention& p, const Stream& stream);
void attend_one_by_one(const Attention& p, const Stream& stream, Workspace workspace);

/// Sets the scores that a row does not see to -inf, whose weight is 0.
void hide_scores(const KeyRun* runs, const VisibleBlock& visible, int64_t n, float* scores);

}  // namespace noema::cpu
