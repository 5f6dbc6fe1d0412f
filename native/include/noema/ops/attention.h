// attention: out = softmax(scale q kᵀ + mask) v per head, online softmax, no T x T matrix in memory.
//
// Query i of a sequence stands at position query_offset + i, key j at position j. Key j is visible when
//   key_start[b] <= j < key_end[b]            (padding; defaults 0 and Tk)
//   j <= query_offset + i                      with `causal`
//   j >  query_offset + i - window             with `causal` and window > 0: `window` keys, the own one included
// A query that sees no key gets out = 0 and lse = -inf, and no gradient flows.
// Query head h reads key/value head h / (H / Hkv). Keys and values may come from another source than the queries.
// Row results do not depend on Tq, B or the thread count (blocks of keys are cut at fixed positions).
// Scores and sums are f32; with Precision::bf16 q, k, v and the probabilities are rounded to bf16 as they enter a
// product.
#pragma once

#include "noema/tensor.h"

namespace noema {

/// The widest head that the op takes.
constexpr int64_t kWidestHead = 256;

struct AttentionMask {
    View key_start;  // [B] i32, optional
    View key_end;    // [B] i32, optional
    int64_t query_offset = 0;
    int64_t window = 0;  // 0: unlimited
    bool causal = false;
};

struct Attention {
    View q;    // [B,Tq,H,D] f32, D contiguous, any other strides
    View k;    // [B,Tk,Hkv,D]
    View v;    // [B,Tk,Hkv,D]
    View out;  // [B,Tq,H,D]
    View lse;  // [B,H,Tq] f32, optional: log of the sum of exp(score), what backward needs saved
    AttentionMask mask;
    float scale = 1.0f;
    Precision precision = Precision::f32;
    /// On the processor: every query by itself, in the order in which sequential_inverse adds up, so that both give the same bits. Slower.
    /// Only with a causal mask and nothing else, one key/value head per head, and without lse. Devices, which have an order of their own
    /// in either op, do not look at it.
    bool one_by_one = false;
};

struct AttentionBackward {
    View q, k, v;  // as in forward
    View out;      // [B,Tq,H,D] forward's result
    View lse;      // [B,H,Tq] saved by forward
    View d_out;    // [B,Tq,H,D]
    View d_q;      // [B,Tq,H,D]   assigned
    View d_k;      // [B,Tk,Hkv,D] assigned
    View d_v;      // [B,Tk,Hkv,D] assigned
    AttentionMask mask;
    float scale = 1.0f;
    Precision precision = Precision::f32;
};

}  // namespace noema
