// row_stats: what a decoding policy wants to know of selected rows of logits, straight from the hidden states.
//
//   logit[v] = hidden[rows[r]] . weight[v] + bias[v], without the excluded id
//   lse = log sum_v exp(logit[v]);  p = exp(logit - lse)
//   argmax, max_logit;  margin = p_1 - p_2 (the two likeliest);  entropy = -sum p log p in nats
//   top_ids, top_logits: the K largest logits, falling; ties go to the lower id
//
// A row with a NaN, or whose largest logit is not finite, has no distribution: its numbers are NaN, its ids the lowest
// allowed ones.
#pragma once

#include "noema/tensor.h"

namespace noema {

/// Largest K that top_ids accepts.
constexpr int64_t kMaxTopK = 1024;

/// All optional; what is absent costs nothing.
struct RowStatsOutputs {
    View argmax;      // [R] i32
    View max_logit;   // [R] f32
    View lse;         // [R] f32
    View entropy;     // [R] f32
    View margin;      // [R] f32
    View top_ids;     // [R,K] i32; K at most kMaxTopK and V (V - 1 with an excluded id)
    View top_logits;  // [R,K] f32, together with top_ids
};

struct RowStats {
    View hidden;    // [N,C] f32
    View rows;      // [R] i32 in [0, N), optional: all rows
    Weight weight;  // [V,C]
    View bias;      // [V] f32, optional
    RowStatsOutputs out;
    int64_t excluded_id = -1;
    Precision precision = Precision::f32;
};

}  // namespace noema
