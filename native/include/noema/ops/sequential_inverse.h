// sequential_inverse: a whole flow inverted in one call (tarflowlm.md sections 6.1 and 3.4, checkpoints.md): in the flow's own
// order, for n = 0 .. N-1 and every sequence b
//
//   x = input (n == 0 ? start : h[b,n-1]) + input_bias         the body's next position, p = position + n
//   x = block(x) for every block                               the pre-norm block of checkpoints.md; keys (after rope at p)
//                                                              and values are written to the caches at p, 0 .. p are read
//   g = rms_norm(x)
//   h[b,n] = inverse of u[b,n] under the coupling with parameters head(g)
//
// and with `forward` the other way: h is given, u[b,n] is what the coupling makes of h[b,n] with these very parameters, to the
// bit. (A pass over all positions at once adds up in another order; a token of 10 nats notices.) The body reads h rounded to f32.
// A row whose `fixed` is set keeps the h that it came with. The blocks' products have `precision`; input, heads and
// couplings are f32. What affine_inverse, mixture_cdf_inverse and mixture_rosenblatt_inverse say of their search holds here.
// The grouped head of mixture_cdf is evaluated scalar by scalar: hidden_i = gelu(context_i + features_i y[j < i]), then
// out_i hidden_i, then the scalar's own search, then its features.
//
// One pass over the weights per position, without allocation; between positions (on a device: some of them) it looks at
// stream.cancelled and returns aborted. A sequence's result does not depend on the others, nor on the number of threads.
//
// Where the backend has an arrangement of its own (Backend::packed_bytes), these weights must be in it: the blocks' for
// `precision`; input, head.weight and head.context for f32. Others have no such weights (a trainer's change too often): they
// call the ops one by one.
#pragma once

#include "noema/tensor.h"

namespace noema {

enum class CouplingKind : uint8_t { affine, mixture_cdf, mixture_rosenblatt };

struct InverseBlock {
    View attention_norm;  // [C]
    Weight q, k, v, o;    // [C,C] each
    View mlp_norm;        // [C]
    Weight gate, up;      // [F,C]
    Weight down;          // [C,F]
    // [B,S,H,D] caches, contiguous: positions below `position` are given, the others are written. With bf16 all are rounded
    // to it in place, as products read them.
    View keys, values;
};

/// What makes the coupling's parameters. K components; P tokens of d channels per position, c = P d.
struct InverseHead {
    CouplingKind kind = CouplingKind::affine;
    int64_t P = 1;
    Weight weight;           // affine [2c,C], mixture_rosenblatt [P*K,C]
    View bias;               // [2c], [P*K]
    View mean, log_sigma;    // mixture_rosenblatt: [K,d], [K]
    View embed, embed_bias;  // mixture_cdf: [(c-1)*E,3], [(c-1)*E]
    Weight context;          // [c*M,C]
    View context_bias;       // [c*M]
    View features;           // [c*M,(c-1)*E] f32 or bf16
    View out, out_bias;      // [c*3K,M] f32 or bf16, [c*3K]
    int64_t E = 0, M = 0, K = 0;
};

struct SequentialInverse {
    const InverseBlock* blocks = nullptr;  // host memory
    int64_t layers = 0;
    View start;       // [c]
    Weight input;     // [C,c]
    View input_bias;  // [C]
    View norm;        // [C]
    InverseHead head;
    View u;                // [B,N,c] f64, contiguous
    View h;                // [B,N,c] f64 out, contiguous (in where fixed)
    View fixed;            // [B,N] u8, optional
    View failed;           // [B,N] i32 out, any strides: scalars whose search did not converge
    double grid = 0;       // of h
    int64_t position = 0;  // RoPE position of n = 0: the number of prefix positions
    int64_t H = 0;         // heads
    double rope_theta = 10000.0;
    float epsilon = 1e-5f;
    Precision precision = Precision::f32;
};

}  // namespace noema
