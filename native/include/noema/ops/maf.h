// maf_features: what the grouped autoregressive head of mixture-cdf makes of every scalar but the last (checkpoints.md):
//
//   y[r, j, e] = gelu(weight[j,e] · (x_j, elu(x_j), elu(-x_j)) + bias[j,e]),  j < c - 1, gelu in the erf form, elu with alpha 1
//
// The head's products (hidden_i = gelu(context_i + features_i[j < i] y), out_i hidden_i) are matmuls on views.
#pragma once

#include "noema/tensor.h"

namespace noema {

/// The most that E may be: a GPU's block works on whole scalars.
constexpr int64_t kMostMafFeatures = 256;

struct MafFeatures {
    View x;       // [R,c], c >= 2
    View weight;  // [c-1,E,3], without gaps, as all that has its shape or bias's
    View bias;    // [c-1,E]
    View y;       // [R,(c-1)*E] out
};

struct MafFeaturesBackward {
    View x;         // [R,c]
    View weight;    // [c-1,E,3]
    View bias;      // [c-1,E]
    View d_y;       // [R,(c-1)*E]
    View d_x;       // [R,c] +=; the last column is left as it is
    View d_weight;  // [c-1,E,3] +=
    View d_bias;    // [c-1,E] +=
};

}  // namespace noema
