// sample: draws one token per selected row, straight from the hidden states, with row_stats' numbers in the same pass.
//
// The distribution is softmax(logit / temperature) over the tokens that survive top_k, then top_p (the smallest set of
// likeliest tokens whose mass, of the tempered softmax after top_k, reaches top_p; at least one). temperature 0 is
// argmax.
//   gumbel:      argmax_v  logit[v] / temperature - log(-log u_v), one uniform per token: lane v of the row
//   categorical: one uniform per row (lane 0), the first token in ascending id whose cumulative mass exceeds u
// Uniforms: rng_uniform(seeds[r], RngStream::token, step, positions[r], lane), so a draw depends on its sequence's
// seed, the step and the position, never on the batch. `logit` is the chosen token's untempered logit; out.lse etc. are
// of the whole untempered row: exp(logit - lse) is the confidence. A row without a distribution (row_stats.h) gives the
// lowest allowed token.
#pragma once

#include "noema/ops/row_stats.h"
#include "noema/tensor.h"

namespace noema {

enum class SampleKind : uint8_t { gumbel, categorical };

struct Sample {
    View hidden;     // [N,C] f32
    View rows;       // [R] i32, optional: all rows
    Weight weight;   // [V,C]
    View bias;       // [V] f32, optional
    View seeds;      // [R] i64 (bits of a u64)
    View positions;  // [R] i32
    View steps;      // [R] i32 (bits of a u32), optional: each row's own step, instead of `step`
    View tokens;     // [R] i32 out
    View logit;      // [R] f32 out, optional
    RowStatsOutputs out;
    int64_t excluded_id = -1;
    int64_t step = 0;
    float temperature = 1.0f;
    int64_t top_k = 0;   // 0: all
    float top_p = 1.0f;  // in (0, 1]
    SampleKind kind = SampleKind::gumbel;
    Precision precision = Precision::f32;
};

}  // namespace noema
