// The pre-norm transformer block that the families share (checkpoints.md):
//
//   x_mid = x     + o(attention(rope(q n1), rope(k n1), v n1))      n1 = rms_norm(x)
//   x_out = x_mid + down(silu(gate n2) * up n2)                      n2 = rms_norm(x_mid)
#pragma once

#include <cmath>

#include "models/views.h"
#include "noema/backend.h"

namespace noema {

/// Sizes and switches of one call. R = B * T rows.
struct BlockShape {
    int64_t B = 0, T = 0, C = 0, H = 0, Hkv = 0, D = 0, F = 0;
    float epsilon = 1e-5f;
    double rope_theta = 10000.0;
    AttentionMask mask;
    Precision precision = Precision::f32;

    int64_t rows() const { return B * T; }
};

struct BlockWeights {
    View attention_norm;  // [C]
    Weight q;             // [H*D, C]
    Weight k, v;          // [Hkv*D, C]
    Weight o;             // [C, H*D]
    View mlp_norm;        // [C]
    Weight gate, up;      // [F, C]
    Weight down;          // [C, F]
};

/// Where gradients of the weights are added; same shapes.
struct BlockGradients {
    View attention_norm, q, k, v, o, mlp_norm, gate, up, down;
};

/// What forward computes; backward reads all of it.
struct BlockActivations {
    View x;          // [R,C] the block's input
    View inv_rms1;   // [R]
    View q, k, v;    // [B,T,H,D], [B,T,Hkv,D] after rope
    View attention;  // [B,T,H,D]
    View lse;        // [B,H,T]
    View x_mid;      // [R,C]
    View inv_rms2;   // [R]
    View gate, up;   // [R,F] before the activation
};

/// [B,T,H,D] seen as rows [R, H*D].
inline View as_rows(const View& v) {
    return as_shape(v, {v.shape[0] * v.shape[1], v.shape[2] * v.shape[3]});
}

inline float attention_scale(const BlockShape& s) {
    return 1.0f / std::sqrt(static_cast<float>(s.D));
}

/// Room for a block whose backward will run.
BlockActivations keep_activations(const BlockShape& shape, Arena& arena);

/// x [R,C] in place, nothing kept.
Status block_forward(const BlockShape& shape, const BlockWeights& weights, const View& x, Context& context);

/// The block's second half, x += down(silu(gate n) * up n), in place.
Status block_mlp(const BlockShape& shape, const BlockWeights& weights, const View& x, Context& context);

/// kept.x holds the input; the output goes to x_out [R,C], which may not be kept.x.
Status block_forward_keeping(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                             const View& x_out, Context& context);

/// Keys (after rope) and values of the positions seen so far.
struct BlockCache {
    View k, v;  // [B,S,Hkv,D]
};
/// x [B*T,C] in place: T more positions after the `position` that the cache holds; theirs are added to it. Causal.
Status block_forward_cached(const BlockShape& shape, const BlockWeights& weights, const BlockCache& cache,
                            int64_t position, const View& x, Context& context);

/// d_x [R,C]: the gradient of the block's output on entry, of its input on return. Weight gradients are added.
Status block_backward(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                      const BlockGradients& gradients, const View& d_x, Context& context);

/// The product y = x Wᵀ of a weight [N,K] on rows [R,K], by the packed arrangement where there is one for this precision.
/// Callers add what the epilogue is to do.
Matmul weight_product(const Weight& weight, const View& x, const View& y, Precision precision);

/// y = x Wᵀ (+ residual), the linear layer of a weight [N,K] on rows [R,K].
Status linear(const Weight& weight, const View& x, const View& y, const View& residual, Precision precision,
              Context& context);

/// Its two gradients: d_x = d_y W (+= with accumulate), d_weight += d_yᵀ x.
Status linear_input_gradient(const Weight& weight, const View& d_y, const View& d_x, bool accumulate,
                             Precision precision, Context& context);
Status linear_weight_gradient(const View& d_y, const View& x, const View& d_weight, Precision precision,
                              Context& context);

}  // namespace noema
