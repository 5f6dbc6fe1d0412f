// masked_conv_norm: the convolutional normalisation of Conv (arXiv 2509.15188), masked-diffusion.md section 3.
//
//   count[b,i] = number of unmasked positions among the `kernel` positions centred on i (odd; zero padding at the ends)
//   s[b,i]     = g(multiplier * count): tanh; linear min(x, 1); exponential 1 - exp(-x)
//   S[b]       = numerator / (sum over masked i of s_i sum_j p[b,i,j] + 1e-12)
//   p_conv[b,i,j] = p[b,i,j] * s_i * S at masked positions, 0 elsewhere
//
// numerator: masked_count is the paper's code for decoding; masked_mass (sum over masked i, j of p) keeps the mass when
// p holds only a row's best tokens. scope batch sums numerator and denominator over all sequences (the fine-tuning
// code).
//
// With `rows` p holds only some positions, [R,K] in the order of rows; all others count as p = 0. With `lse` it holds logits:
// p = exp(logit - lse[r]).
#pragma once

#include "noema/tensor.h"

namespace noema {

enum class ConvShape : uint8_t { tanh, linear, exponential };
enum class ConvNumerator : uint8_t { masked_count, masked_mass };
enum class ConvScope : uint8_t { sequence, batch };

struct MaskedConvNorm {
    View masked;         // [B,T] u8, 1 = masked
    View rows;           // [R] i32, optional: flat positions b T + t, each once
    View lse;            // [R] f32, optional, with rows
    View p;              // [B,T,K] ([R,K] with rows) f32, optional: without it only count and s are made
    View p_conv;         // of p's shape, together with p; may be p
    View count;          // [B,T] f32, optional
    View s;              // [B,T] f32
    View normaliser;     // [B] f32 ([1] for scope batch), optional, with p
    int64_t kernel = 1;  // odd
    float multiplier = 1.0f;
    ConvShape shape = ConvShape::tanh;
    ConvNumerator numerator = ConvNumerator::masked_count;
    ConvScope scope = ConvScope::sequence;
};

}  // namespace noema
