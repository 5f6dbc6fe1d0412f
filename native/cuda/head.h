// The vocabulary head. Logits are formed tile by tile and never written to memory whole: a pass leaves a HeadState for every row
// and slice of the vocabulary, and the slices are merged in their order.
//
//   gather   the rows asked for, side by side, in the type that products want           head.cu
//   pass     blocks of rows x a slice of the vocabulary                                  head_pass_*.cu
//   finish   merges a row's slices, writes what row_stats and sample are asked for       head.cu
//
// What needs a row's logits together (lists of the best, top_k, top_p, categorical draws: head_rows.cu) has them kept for
// kKeptLogits at a time.
#pragma once

#include "common/launch.h"
#include "common/operand.h"
#include "noema/arena.h"
#include "noema/ops/row_stats.h"
#include "noema/rng.h"

namespace noema::cuda {

// Slices depend on V alone: some 256, so that a single tile of rows fills the device, of whole tiles of 128 tokens.
constexpr int64_t kSliceTokens = 128, kSlices = 256;
// Their states take at most 64 MB and a few.
constexpr int64_t kRowsAtOnce = 8192;
// 64 MB of logits: 512 rows of 32,768 tokens, 128 of 131,072.
constexpr int64_t kKeptLogits = int64_t{16} << 20;

/// What is known of a row after some of its tokens, relative to the largest of their logits.
struct HeadState {
    float max;       // -inf: nothing yet; +inf: there was a NaN or an infinity, and the row has no distribution
    float sum;       // of exp(logit - max)
    float weighted;  // of exp(logit - max) (logit - max)
    float second;    // the second largest logit
    float score;     // the best (logit - max) beta + noise
    float chosen_logit;
    int32_t chosen;  // whose score that is
    int32_t best;    // whose logit the largest is
};

/// The random numbers of rows; without seeds there are none.
struct Noise {
    const int64_t* seeds = nullptr;
    const int32_t *positions = nullptr, *steps = nullptr;
    uint32_t step = 0;
    float beta = 0;  // 1 / temperature
};

struct HeadPass {
    Operand hidden, weight;  // `lines` rows, V tokens
    const float* bias = nullptr;
    const int32_t* count = nullptr;    // in device memory: how many rows there really are; null: hidden.lines
    HeadState* states = nullptr;       // [rows, slices]
    float* logits = nullptr;           // [rows, pitch], optional
    const int32_t* targets = nullptr;  // [rows], optional: whose logits to leave in target_logits
    float* target_logits = nullptr;
    Noise noise;
    int64_t logits_pitch = 0;
    int C = 0, V = 0, excluded = -1, slice = 0, slices = 0;
};

Status head_pass_tensor(const HeadPass&, const Stream&);
Status head_pass_fma(const HeadPass&, const Stream&);

struct HeadInput {
    View hidden, weight, bias;
    int64_t excluded_id;
    Precision precision;
};

/// Sizes, from shapes alone.
struct HeadPlan {
    HeadPlan(const HeadInput& in, int64_t rows, bool keep_logits);

    int64_t C, V, slice, slices;
    int64_t at_once;                     // rows
    int64_t hidden_pitch, logits_pitch;  // elements
    bool tensor, keeps;
    size_t workspace() const;
};

struct HeadRoom {
    void* hidden;       // [at_once, hidden_pitch] bf16 or f32
    HeadState* slices;  // [at_once, slices]
    HeadState* states;  // [at_once]
    float* logits;      // [at_once, logits_pitch], or null
};
HeadRoom take_room(const HeadPlan& plan, Workspace& workspace);

/// What finish writes, each optional.
struct HeadOutputs {
    int32_t* argmax = nullptr;
    float *max_logit = nullptr, *lse = nullptr, *entropy = nullptr, *margin = nullptr;
    int32_t* tokens = nullptr;  // the chosen one, or with `greedy` the best
    float* logit = nullptr;
    bool greedy = false;
};
HeadOutputs outputs_of(const RowStatsOutputs& out, int64_t first);

/// Rows to gather: ids, or `first` and those after it.
struct HeadRows {
    const int32_t* ids = nullptr;
    int64_t first = 0, count = 0;
    const int32_t* device_count = nullptr;
};
/// To bf16 from either type, or to f32 from f32.
Status gather_rows(const View& hidden, const HeadRows& rows, const HeadPlan& plan, void* to, const Stream& stream);
/// The pass over gathered rows; the caller may add to it.
HeadPass make_pass(const HeadInput& in, const HeadPlan& plan, const HeadRoom& room, int64_t rows);
Status run_pass(const HeadPass& pass, const HeadPlan& plan, const Stream& stream);
/// Merges slices into room.states and writes outputs.
Status finish_rows(const HeadPass& pass, const HeadRoom& room, const HeadOutputs& out, const Stream& stream);

// --- with kept logits (head_rows.cu) ---------------------------------------------------------------------------------

struct KeptRows {
    const float* logits;
    const HeadState* states;
    int64_t pitch;
    int rows, V, excluded;
};
Status list_best(const KeptRows& kept, const RowStatsOutputs& out, int64_t first, const Stream& stream);

struct Choice {
    Noise noise;
    int32_t* tokens;
    float* logit;  // optional
    int64_t top_k;
    float top_p;
    bool categorical;
};
Status choose_tokens(const KeptRows& kept, const Choice& choice, const Stream& stream);

template <class T>
T* data_or_null(const View& v, int64_t first = 0) {
    return v ? v.as<T>() + first : nullptr;
}

// --- what the head's ops share ---------------------------------------------------------------------------------------

template <class P>
HeadInput input_of(const P& p) {
    return {p.hidden, p.weight.view, p.bias, p.excluded_id, p.precision};
}

/// row_stats and sample look at selected rows.
template <class P>
int64_t rows_of(const P& p) {
    return p.rows ? p.rows.shape[0] : p.hidden.shape[0];
}

inline KeptRows kept_rows(const HeadPass& pass, const HeadPlan& plan, const HeadRoom& room) {
    return {room.logits, room.states, plan.logits_pitch, pass.hidden.lines, pass.V, pass.excluded};
}

/// f(rows) for as many rows at a time as there is room for.
template <class P, class F>
Status each_chunk(const P& p, const HeadPlan& plan, const F& f) {
    const int64_t R = rows_of(p);
    for (int64_t first = 0; first < R; first += plan.at_once) {
        const int64_t count = R - first < plan.at_once ? R - first : plan.at_once;
        NOEMA_TRY(f(HeadRows{data_or_null<int32_t>(p.rows, first), first, count}));
    }
    return {};
}

}  // namespace noema::cuda
