// cross_attention: every token of a sequence reads the few latents of its layer (latent thought models, ltm.md section 1.4).
//
//   out[b,t,h] = sum_m softmax_m(scale q[b,t,h] . k[b,m,h]) v[b,m,h]
//
// No mask, no positions: each head sees all M keys. With so few keys the op is bound by reading q and writing out, so its
// products are f32 in every mode, and the backward recomputes the weights rather than read them: nothing is saved.
// A token's result does not depend on T, B or the thread count; d_k and d_v are sums over chunks of tokens that are cut at
// fixed positions.
#pragma once

#include "noema/tensor.h"

namespace noema {

/// The most keys that the op takes.
constexpr int64_t kMostLatents = 64;

struct CrossAttention {
    View q;    // [B,T,H,D] f32, D contiguous, any other strides
    View k;    // [B,M,H,D]
    View v;    // [B,M,H,D]
    View out;  // [B,T,H,D]
    float scale = 1.0f;
    View weights;  // [B,T,H,M] optional: softmax_m of the above, for whoever wants to see who reads what
};

struct CrossAttentionBackward {
    View q, k, v;  // as in forward
    View d_out;    // [B,T,H,D]
    View d_q;      // [B,T,H,D] assigned, optional
    View d_k;      // [B,M,H,D] assigned, optional
    View d_v;      // [B,M,H,D] assigned, optional
    float scale = 1.0f;
};

}  // namespace noema
