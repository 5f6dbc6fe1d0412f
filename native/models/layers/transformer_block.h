// The pre-norm transformer block that the families share (checkpoints.md):
//
//   x_mid   = x       + o(attention(rope(q n1), rope(k n1), v n1))      n1 = rms_norm(x)
//   x_cross = x_mid   + co(attention(cq nc, keys, values))              nc = rms_norm(x_mid); only of blocks that read latents
//   x_out   = x_cross + down(silu(gate n2) * up n2)                      n2 = rms_norm(x_cross)
#pragma once

#include <cmath>

#include "models/views.h"
#include "noema/backend.h"

namespace noema {

/// Sizes and switches of one call. R = B * T rows.
struct BlockShape {
    int64_t B = 0, T = 0, C = 0, H = 0, Hkv = 0, D = 0, F = 0;
    int64_t M = 0;  // latents that a sequence's tokens read in every block; 0: none
    float epsilon = 1e-5f;
    double rope_theta = 10000.0;
    AttentionMask mask;
    Precision precision = Precision::f32;

    int64_t rows() const { return B * T; }
};

/// The part of a block that reads latents. W: Weight, or View for gradients.
template <class W>
struct CrossRoles {
    View norm;   // [C]
    W q, o;      // [C,C]
    W k, v;      // [C,C] of the latents
    View place;  // [M,C] added to the latents, to tell them apart
};

/// A linear layer with a bias, which may be absent.
struct BiasedWeight {
    Weight weight;  // [N,K]
    View bias;      // [N]
};
struct BiasedGradient {
    View weight, bias;
};

struct BlockWeights {
    View attention_norm;          // [C]
    Weight q;                     // [H*D, C]
    Weight k, v;                  // [Hkv*D, C]
    View q_bias, k_bias, v_bias;  // [H*D], [Hkv*D]; only of blocks that have them
    Weight o;                     // [C, H*D]
    View mlp_norm;                // [C]
    Weight gate, up;              // [F, C]
    Weight down;                  // [C, F]
    CrossRoles<Weight> cross;
};

/// Keys and values that a block's tokens read besides each other, [B,M,H,D]: of latents, whatever the tokens' positions.
struct Latents {
    View keys, values;
    View weights;  // [B,T,H,M] optional: takes what each token weighs them by
};

/// Where gradients of the weights are added; same shapes. Those that are empty are not formed: with none of them backward computes the
/// gradients of its inputs alone.
struct BlockGradients {
    View attention_norm, q, k, v, q_bias, k_bias, v_bias, o, mlp_norm, gate, up, down;
    CrossRoles<View> cross;
    Latents latents;  // assigned
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

    // Of blocks that read latents; without them x_cross is x_mid.
    Latents latents;       // given
    View cross_inv_rms;    // [R]
    View cross_q;          // [B,T,H,D]
    View cross_attention;  // [B,T,H,D]
    View x_cross;          // [R,C]
};

/// [B,T,H,D] seen as rows [R, H*D].
inline View as_rows(const View& v) {
    return as_shape(v, {v.shape[0] * v.shape[1], v.shape[2] * v.shape[3]});
}

inline float attention_scale(const BlockShape& s) {
    return 1.0f / std::sqrt(static_cast<float>(s.D));
}

/// Room for a block whose backward will run; and for the self-attention of one that works in place and keeps nothing.
BlockActivations keep_activations(const BlockShape& shape, Arena& arena);
BlockActivations transient_activations(const BlockShape& shape, const View& x, Arena& arena);

/// x [R,C] in place, nothing kept.
Status block_forward(const BlockShape& shape, const BlockWeights& weights, const View& x, Context& context,
                     const Latents& latents = {});

/// The block's later parts in place: x += co(attention(cq n, keys, values)), then x += down(silu(gate n) * up n).
Status block_cross(const BlockShape& shape, const BlockWeights& weights, const Latents& latents, const View& x,
                   Context& context);
Status block_mlp(const BlockShape& shape, const BlockWeights& weights, const View& x, Context& context);

/// kept.x holds the input, kept.latents what is read; the output goes to x_out [R,C], which may not be kept.x.
Status block_forward_keeping(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                             const View& x_out, Context& context);

/// Its parts one by one: x -> x_mid; x_mid -> cross_q; cross_q -> x_cross, the first that depends on latents; x_cross -> x_out.
Status keep_attention(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                      Context& context);
Status keep_queries(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                    Context& context);
Status keep_reading(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                    Context& context);
Status keep_mlp(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept, const View& x_out,
                Context& context);

/// What latents, rows [B*M,C], are to the tokens of a block.
Status latent_keys(const BlockShape& shape, const BlockWeights& weights, const View& rows, const Latents& out,
                   Context& context);
/// d_rows [B*M,C] assigned: the gradient of the latents from that of their keys and values, in gradients.latents.
Status latent_keys_backward(const BlockShape& shape, const BlockWeights& weights, const BlockGradients& gradients,
                            const View& rows, const View& d_rows, Context& context);

/// Keys (after rope) and values of the positions seen so far.
struct BlockCache {
    View k, v;  // [B,S,Hkv,D]
};
/// x [B*T,C] in place: T more positions after the `position` that the cache holds; theirs are added to it. Causal.
Status block_forward_cached(const BlockShape& shape, const BlockWeights& weights, const BlockCache& cache,
                            int64_t position, const View& x, Context& context);

/// Keys and values of each sequence's last w positions: position p lies at p % w, whatever the other sequences' positions are.
struct WindowCache {
    View k, v;        // [B,w,H,D]
    Latents latents;  // read besides, where there are any
    /// Keys and values of R positions to places [R], b w + p % w; below 0: nowhere.
    Status store(const BlockActivations& from, const View& places, Context& context) const;
};
/// block_forward whose positions' keys and values go to `places` [R] of a cache.
Status block_forward_filling(const BlockShape& shape, const BlockWeights& weights, const WindowCache& cache,
                             const View& places, const View& x, Context& context);

/// One more position of every sequence.
struct NextPosition {
    View positions;  // [B,1] i32
    View places;     // [B] i32: b w + p % w
    View seen;       // [B] i32: min(p + 1, w) keys are there, the new one included
};
/// x [B,C] in place, T = 1: a position that sees the cache and itself, which is added to it. Its keys stand in another order than in a pass
/// over whole texts once the window is full: then sums round otherwise.
Status block_forward_windowed(const BlockShape& shape, const BlockWeights& weights, const WindowCache& cache,
                              const NextPosition& next, const View& x, Context& context);

/// d_x [R,C]: the gradient of the block's output on entry, of its input on return. Weight gradients are added; those of the latents'
/// keys and values are assigned.
Status block_backward(const BlockShape& shape, const BlockWeights& weights, const BlockActivations& kept,
                      const BlockGradients& gradients, const View& d_x, Context& context);

/// Parts of backward, d_x as above. The reading alone assigns the gradients of keys, values and (optional) queries and leaves d_x as it is:
/// it suffices where nothing below the latents needs a gradient.
struct BlockPass {
    const BlockShape& shape;
    const BlockWeights& weights;
    const BlockActivations& kept;
    const BlockGradients& gradients;
};
Status mlp_backward(const BlockPass& block, const View& d_x, Context& context);
Status cross_backward(const BlockPass& block, const View& d_x, Context& context);
Status reading_backward(const BlockPass& block, const View& d_x, const View& d_q, Context& context);

/// The product y = x Wᵀ of a weight [N,K] on rows [R,K], by the packed arrangement where there is one for this precision.
/// Callers add what the epilogue is to do.
Matmul weight_product(const Weight& weight, const View& x, const View& y, Precision precision);

/// y = x Wᵀ (+ residual), the linear layer of a weight [N,K] on rows [R,K].
Status linear(const Weight& weight, const View& x, const View& y, const View& residual, Precision precision,
              Context& context);

/// Its two gradients: d_x = d_y W (+= with accumulate), d_weight += d_yᵀ x; without d_weight nothing.
Status linear_input_gradient(const Weight& weight, const View& d_y, const View& d_x, bool accumulate,
                             Precision precision, Context& context);
Status linear_weight_gradient(const View& d_y, const View& x, const View& d_weight, Precision precision,
                              Context& context);

/// y = x Wᵀ + b, and the gradients of the two.
Status biased_linear(const BiasedWeight& weight, const View& x, const View& y, Precision precision, Context& context);
Status biased_linear_gradients(const View& d_y, const View& x, const BiasedGradient& gradient, Precision precision,
                               Context& context);

}  // namespace noema
