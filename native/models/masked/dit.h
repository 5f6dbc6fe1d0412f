// MDLM's network (masked-diffusion.md section 2): a DiT, whose norms and residual branches are modulated by a vector that says what time it
// is. Published models were made without time conditioning: the time is 0 for every sequence, so the vector, and what every block makes of
// it, is the same for all. It is learned all the same.
//
//   v     = silu(output silu(input e))                       e: the time embedding of 0
//   m     = modulation v                                      per block: shift, scale, gate of the attention, then of the MLP
//   x_mid = x     + gate1 * o(attention(rope(q n1), rope(k n1), v n1))      n1 = layer_norm(x) (1 + scale1) + shift1
//   x_out = x_mid + gate2 * down(gelu_tanh(up n2))                          n2 = layer_norm(x_mid) (1 + scale2) + shift2
//   y     = layer_norm(x) (1 + scale) + shift                               after the last block
#pragma once

#include <string>
#include <vector>

#include "models/layers/transformer_block.h"
#include "noema/masked_model.h"

namespace noema {

/// Of the condition: published models have 128.
constexpr int64_t kWidestCondition = 1 << 14;

/// L: BiasedWeight or BiasedGradient; W: Weight or View. K: width of the condition.
template <class L, class W>
struct DitBlockRoles {
    View attention_norm;  // [C]
    W qkv;                // [3C,C]
    W o;                  // [C,C]
    View mlp_norm;        // [C]
    L up;                 // [F,C]
    L down;               // [C,F]
    L modulation;         // [6C,K]
};
using DitBlockWeights = DitBlockRoles<BiasedWeight, Weight>;
using DitBlockGradients = DitBlockRoles<BiasedGradient, View>;

template <class L, class W>
struct DitRoles {
    L input;   // [K,256]
    L output;  // [K,K]
    std::vector<DitBlockRoles<L, W>> blocks;
    L modulation;  // [2C,K]: shift and scale of the final norm
};
using DitWeights = DitRoles<BiasedWeight, Weight>;
using DitGradients = DitRoles<BiasedGradient, View>;

/// Tells `matrix`, `linear` and `vector` where each canonical name belongs; a linear layer's name stands for its weight and its bias.
template <class Roles, class Matrix, class Linear, class Vector>
void each_dit_role(Roles& roles, const Matrix& matrix, const Linear& linear, const Vector& vector) {
    linear("condition.input", roles.input);
    linear("condition.output", roles.output);
    for (size_t i = 0; i < roles.blocks.size(); ++i) {
        auto& b = roles.blocks[i];
        const std::string name = "layers." + std::to_string(i) + ".";
        vector(name + "attention_norm.weight", b.attention_norm);
        matrix(name + "qkv.weight", b.qkv);
        matrix(name + "o.weight", b.o);
        vector(name + "mlp_norm.weight", b.mlp_norm);
        linear(name + "up", b.up);
        linear(name + "down", b.down);
        linear(name + "modulation", b.modulation);
    }
    linear("modulation", roles.modulation);
}

/// The specs of the same tensors, and of the head's bias.
void add_dit_tensors(const MaskedConfig& config, std::vector<TensorSpec>& matrices, std::vector<TensorSpec>& vectors);

/// The vector that all modulations come from, and what it was made of.
struct Condition {
    View time;          // [1,256]
    View ones;          // [1,K]
    View inner, outer;  // [1,K] before their activations
    View vector;        // [1,K]
};
Status make_condition(const DitWeights& weights, Condition& out, Context& context);
/// d_vector [1,K]: the gradient of all that read it.
Status condition_backward(const DitWeights& weights, const DitGradients& gradients, const Condition& kept,
                          const View& d_vector, Context& context);

/// What a block's forward computes; backward reads all of it.
struct DitActivations {
    View x;                 // [R,C] the block's input
    View modulation;        // [1,6C]
    View mean1, inv_std1;   // [R]
    View qkv;               // [R,3C], queries and keys after rope
    View attention;         // [B,T,H,D]
    View lse;               // [B,H,T]
    View attention_branch;  // [R,C] before its gate
    View x_mid;             // [R,C]
    View mean2, inv_std2;   // [R]
    View up;                // [R,F] before the activation
    View mlp_branch;        // [R,C] before its gate
};
DitActivations keep_dit_activations(const BlockShape& shape, Arena& arena);

/// x [R,C] in place, nothing kept.
Status dit_block_forward(const BlockShape& shape, const DitBlockWeights& weights, const View& condition, const View& x,
                         Context& context);
/// kept.x holds the input; the output goes to x_out [R,C].
Status dit_block_forward_keeping(const BlockShape& shape, const DitBlockWeights& weights, const View& condition,
                                 const DitActivations& kept, const View& x_out, Context& context);

struct DitBlockPass {
    const BlockShape& shape;
    const DitBlockWeights& weights;
    const DitActivations& kept;
    const DitBlockGradients& gradients;
};
/// d_x [R,C]: the gradient of the block's output on entry, of its input on return. d_condition [1,K] is added to.
Status dit_block_backward(const DitBlockPass& block, const View& condition, const View& d_x, const View& d_condition,
                          Context& context);

/// modulation [1,n C] = W condition + b, its gradients (that of the condition is added to), and its part `which`, [1,C].
Status modulation_of(const BiasedWeight& weight, const View& condition, const View& modulation, Context& context);
struct ModulationGradients {
    View modulation;  // [1,n C] given
    View condition;   // [1,K] +=
};
Status modulation_backward(const BiasedWeight& weight, const BiasedGradient& gradient, const View& condition,
                           const ModulationGradients& d, Context& context);
View modulation_part(const View& modulation, int64_t which, int64_t C);

/// layer_norm(x) (1 + scale) + shift, from parts `first` (shift) and `first` + 1 (scale) of a modulation; the caller adds where it goes.
LayerNorm modulated_norm(const BlockShape& shape, const View& x, const View& weight, const View& modulation,
                         int64_t first);

}  // namespace noema
