// cross_entropy: the vocabulary projection and its loss in one pass over chunks; logits are never stored whole.
//
//   logit[r,v] = hidden[r] . weight[v] + bias[v];   loss[r] = logsumexp_v(logit[r]) - logit[r, target[r]]
//   total = sum_r row_weight[r] * loss[r]
//   d_hidden[r] = row_weight[r] * (softmax(logit[r]) W - W[target[r]]),   d_weight += ...,   d_bias += ...
//
// A row with target < 0 has loss 0, lse 0 and no gradient; one without a distribution (row_stats.h) has NaN in all.
// `excluded_id` >= 0 takes a column out of the softmax (the MASK token of SUBS, masked-diffusion.md section 1) and may
// not be a target. With d_weight absent only the input gradient is formed (weights frozen: the inner loop of latent
// thought models).
#pragma once

#include "noema/tensor.h"

namespace noema {

struct CrossEntropy {
    View hidden;      // [R,C] f32
    Weight weight;    // [V,C]
    View bias;        // [V] f32, optional
    View targets;     // [R] i32
    View row_weight;  // [R] f32, optional (1)
    View loss;        // [R] f32
    View lse;         // [R] f32, optional
    View d_hidden;    // [R,C] f32 assigned, optional
    View d_weight;    // [V,C] f32 +=, optional
    View d_bias;      // [V] f32 +=, optional, with bias
    int64_t excluded_id = -1;
    Precision precision = Precision::f32;
};

}  // namespace noema
