// The gradients of cross_entropy, a chunk of the vocabulary at a time: the chunk's logits are formed again and become
//   P[r,v] = row_weight[r] (softmax - onehot)
// in memory, then P W and P^T hidden are added to what the chunks before left: sums go on where they stopped, so no bit
// depends on how the vocabulary or the rows were cut.
#pragma once

#include "head.h"

namespace noema::cuda {

// 64 MB of P, and at most so many tokens (a chunk of an f32 weight is converted: 16 MB for C = 1024).
constexpr int64_t kProbabilityBytes = int64_t{64} << 20, kProbabilityTokens = 8192, kProbabilityTile = 128;

/// Rows are the scored ones, in their order; `count` says in device memory how many there are.
struct Probabilities {
    Operand hidden, weight;  // rows; the chunk's tokens
    const float* bias;       // the chunk's, optional
    const HeadState* states;
    const int32_t *targets, *count;
    const float* scales;  // row_weight
    void* p;              // [rows, pitch] bf16 or f32
    float* column_sums;   // [tiles of rows, pitch], optional
    int64_t pitch;
    int C, first, excluded;  // first: the chunk's first token
};
Status form_probabilities(const Probabilities&, const Stream&);

/// out[M,N] += sum over k of a[m,k] b[n,k]. Either the rows of `out` are the scored ones (rows[m] says which), or k counts them.
struct Accumulation {
    Operand a, b;
    float* out;
    const int32_t *rows, *count;
    int64_t stride;
    int K;
    bool from_zero, pairs;  // pairs: neighbours may be read and written in one access of 8 bytes
};
Status add_input_gradient(const Accumulation&, const Stream&);
Status add_weight_gradient(const Accumulation&, const Stream&);

}  // namespace noema::cuda
