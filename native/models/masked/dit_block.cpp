// A DiT's block (dit.h), forward and backward.
#include "models/masked/dit.h"

namespace noema {

namespace {

// Parts of a block's modulation: shift, scale and gate of each branch.
constexpr int64_t kAttention = 0, kMlp = 3, kGate = 2, kParts = 6;

/// Queries (0), keys (1) or values (2) of [R,3C] rows, as [B,T,H,D].
View heads_of(const BlockShape& s, const View& qkv, int64_t which) {
    View v = moved(as_shape(qkv, {s.B, s.T, 3 * s.H, s.D}), which * s.C);
    v.shape[2] = s.H;
    return v;
}

Status rotate(const BlockShape& s, const View& x, bool inverse, Context& c) {
    return rope({.x = x, .y = x, .theta = s.rope_theta, .inverse = inverse}, c);
}

LayerNorm attention_norm(const BlockShape& s, const DitBlockWeights& w, const DitActivations& a, const View& y) {
    LayerNorm norm = modulated_norm(s, a.x, w.attention_norm, a.modulation, kAttention);
    norm.y = y, norm.mean = a.mean1, norm.inv_std = a.inv_std1;
    return norm;
}

LayerNorm mlp_norm(const BlockShape& s, const DitBlockWeights& w, const DitActivations& a, const View& y) {
    LayerNorm norm = modulated_norm(s, a.x_mid, w.mlp_norm, a.modulation, kMlp);
    norm.y = y, norm.mean = a.mean2, norm.inv_std = a.inv_std2;
    return norm;
}

/// y = x + gate * branch
Status through_gate(const BlockShape& s, const View& x, const View& branch, const View& gate, const View& y,
                    Context& c) {
    return gated_add({.x = x, .f = branch, .gate = gate, .y = y, .rows_per_sequence = s.rows()}, c);
}

Status attend(const BlockShape& s, const DitBlockWeights& w, const DitActivations& a, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(DType::f32, s.rows(), s.C);
    NOEMA_TRY(layer_norm(attention_norm(s, w, a, n), c));
    NOEMA_TRY(linear(w.qkv, n, a.qkv, {}, s.precision, c));
    const View q = heads_of(s, a.qkv, 0), k = heads_of(s, a.qkv, 1), v = heads_of(s, a.qkv, 2);
    NOEMA_TRY(rotate(s, q, false, c));
    NOEMA_TRY(rotate(s, k, false, c));
    NOEMA_TRY(attention({.q = q,
                         .k = k,
                         .v = v,
                         .out = a.attention,
                         .lse = a.lse,
                         .mask = s.mask,
                         .scale = attention_scale(s),
                         .precision = s.precision},
                        c));
    NOEMA_TRY(linear(w.o, as_rows(a.attention), a.attention_branch, {}, s.precision, c));
    return through_gate(s, a.x, a.attention_branch, modulation_part(a.modulation, kAttention + kGate, s.C), a.x_mid, c);
}

Status add_mlp(const BlockShape& s, const DitBlockWeights& w, const DitActivations& a, const View& x_out, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(DType::f32, s.rows(), s.C), inner = c.arena->tensor(DType::f32, s.rows(), s.F);
    NOEMA_TRY(layer_norm(mlp_norm(s, w, a, n), c));
    Matmul up = weight_product(w.up.weight, n, a.up ? a.up : inner, s.precision);
    up.bias = w.up.bias;
    if (!a.up) up.activation = Activation::gelu_tanh;
    NOEMA_TRY(matmul(up, c));
    if (a.up) NOEMA_TRY(gelu({.x = a.up, .y = inner, .form = Activation::gelu_tanh}, c));
    NOEMA_TRY(biased_linear(w.down, inner, a.mlp_branch, s.precision, c));
    return through_gate(s, a.x_mid, a.mlp_branch, modulation_part(a.modulation, kMlp + kGate, s.C), x_out, c);
}

}  // namespace

DitActivations keep_dit_activations(const BlockShape& s, Arena& arena) {
    const int64_t R = s.rows();
    const auto tensor = [&](auto... shape) { return arena.tensor(DType::f32, shape...); };
    return {.x = tensor(R, s.C),
            .modulation = tensor(1, kParts * s.C),
            .mean1 = tensor(R),
            .inv_std1 = tensor(R),
            .qkv = tensor(R, 3 * s.C),
            .attention = tensor(s.B, s.T, s.H, s.D),
            .lse = tensor(s.B, s.H, s.T),
            .attention_branch = tensor(R, s.C),
            .x_mid = tensor(R, s.C),
            .mean2 = tensor(R),
            .inv_std2 = tensor(R),
            .up = tensor(R, s.F),
            .mlp_branch = tensor(R, s.C)};
}

Status dit_block_forward(const BlockShape& s, const DitBlockWeights& w, const View& condition, const View& x,
                         Context& c) {
    ArenaScope scope(*c.arena);
    const View branch = c.arena->tensor(DType::f32, s.rows(), s.C);
    const DitActivations a{.x = x,
                           .modulation = c.arena->tensor(DType::f32, 1, kParts * s.C),
                           .qkv = c.arena->tensor(DType::f32, s.rows(), 3 * s.C),
                           .attention = c.arena->tensor(DType::f32, s.B, s.T, s.H, s.D),
                           .attention_branch = branch,
                           .x_mid = x,
                           .mlp_branch = branch};
    return dit_block_forward_keeping(s, w, condition, a, x, c);
}

Status dit_block_forward_keeping(const BlockShape& s, const DitBlockWeights& w, const View& condition,
                                 const DitActivations& a, const View& x_out, Context& c) {
    NOEMA_TRY(modulation_of(w.modulation, condition, a.modulation, c));
    NOEMA_TRY(attend(s, w, a, c));
    return add_mlp(s, w, a, x_out, c);
}

namespace {

/// A branch's gradients on their way down: d_x passes by the branch and takes up what comes through it.
struct BranchGradients {
    View d_x;           // [R,C]
    View d_modulation;  // [1,6C]
    int64_t first;      // where the branch's shift, scale and gate are
};

/// y = x + gate * branch: the branch's gradient.
Status gate_backward(const DitBlockPass& p, const BranchGradients& d, const View& branch, const View& d_branch,
                     Context& c) {
    const int64_t C = p.shape.C, gate = d.first + kGate;
    return gated_add_backward({.f = branch,
                               .gate = modulation_part(p.kept.modulation, gate, C),
                               .d_y = d.d_x,
                               .d_f = d_branch,
                               .d_gate = modulation_part(d.d_modulation, gate, C),
                               .rows_per_sequence = p.shape.rows()},
                              c);
}

/// The modulated norm below a branch, whose result's gradient is d_n; the residual path already holds d_x.
Status norm_backward(const DitBlockPass& p, const BranchGradients& d, const LayerNorm& norm, const View& d_n,
                     const View& d_weight, Context& c) {
    return layer_norm_backward({.x = norm.x,
                                .weight = norm.weight,
                                .scale = norm.scale,
                                .mean = norm.mean,
                                .inv_std = norm.inv_std,
                                .d_y = d_n,
                                .d_x = d.d_x,
                                .d_weight = d_weight,
                                .d_scale = modulation_part(d.d_modulation, d.first + 1, p.shape.C),
                                .d_shift = modulation_part(d.d_modulation, d.first, p.shape.C),
                                .rows_per_sequence = norm.rows_per_sequence,
                                .accumulate_x = true},
                               c);
}

Status mlp_backward(const DitBlockPass& p, const BranchGradients& d, Context& c) {
    const BlockShape& s = p.shape;
    const DitActivations& a = p.kept;
    ArenaScope scope(*c.arena);
    const View d_branch = c.arena->tensor(DType::f32, s.rows(), s.C), n = c.arena->tensor(DType::f32, s.rows(), s.C);
    const View inner = c.arena->tensor(DType::f32, s.rows(), s.F), d_inner = c.arena->tensor(DType::f32, s.rows(), s.F);

    // x_out = x_mid + gate2 * branch
    NOEMA_TRY(gate_backward(p, d, a.mlp_branch, d_branch, c));

    // branch = down(gelu(up)); what the activation gives is computed again.
    NOEMA_TRY(gelu({.x = a.up, .y = inner, .form = Activation::gelu_tanh}, c));
    NOEMA_TRY(biased_linear_gradients(d_branch, inner, p.gradients.down, s.precision, c));
    NOEMA_TRY(linear_input_gradient(p.weights.down.weight, d_branch, d_inner, false, s.precision, c));
    NOEMA_TRY(gelu_backward({.x = a.up, .d_y = d_inner, .d_x = d_inner, .form = Activation::gelu_tanh}, c));

    // up = Wu n2 + b; n2 is computed again.
    const LayerNorm norm = mlp_norm(s, p.weights, a, n);
    NOEMA_TRY(layer_norm(norm, c));
    NOEMA_TRY(biased_linear_gradients(d_inner, n, p.gradients.up, s.precision, c));
    const View d_n = d_branch;
    NOEMA_TRY(linear_input_gradient(p.weights.up.weight, d_inner, d_n, false, s.precision, c));

    // n2 = layer_norm(x_mid) (1 + scale2) + shift2
    return norm_backward(p, d, norm, d_n, p.gradients.mlp_norm, c);
}

Status attention_backward(const DitBlockPass& p, const BranchGradients& d, Context& c) {
    const BlockShape& s = p.shape;
    const DitActivations& a = p.kept;
    ArenaScope scope(*c.arena);
    const View d_branch = c.arena->tensor(DType::f32, s.rows(), s.C), n = c.arena->tensor(DType::f32, s.rows(), s.C);
    const View d_attention = c.arena->tensor(DType::f32, s.B, s.T, s.H, s.D);
    const View d_qkv = c.arena->tensor(DType::f32, s.rows(), 3 * s.C);
    const View d_q = heads_of(s, d_qkv, 0), d_k = heads_of(s, d_qkv, 1), d_v = heads_of(s, d_qkv, 2);

    // x_mid = x + gate1 * branch
    NOEMA_TRY(gate_backward(p, d, a.attention_branch, d_branch, c));

    // branch = o(attention)
    NOEMA_TRY(linear_weight_gradient(d_branch, as_rows(a.attention), p.gradients.o, s.precision, c));
    NOEMA_TRY(linear_input_gradient(p.weights.o, d_branch, as_rows(d_attention), false, s.precision, c));

    // attention = softmax(scale q kᵀ) v; q and k were turned by rope
    NOEMA_TRY(noema::attention_backward({.q = heads_of(s, a.qkv, 0),
                                         .k = heads_of(s, a.qkv, 1),
                                         .v = heads_of(s, a.qkv, 2),
                                         .out = a.attention,
                                         .lse = a.lse,
                                         .d_out = d_attention,
                                         .d_q = d_q,
                                         .d_k = d_k,
                                         .d_v = d_v,
                                         .mask = s.mask,
                                         .scale = attention_scale(s),
                                         .precision = s.precision},
                                        c));
    NOEMA_TRY(rotate(s, d_q, true, c));
    NOEMA_TRY(rotate(s, d_k, true, c));

    // (q, k, v) = Wqkv n1; n1 is computed again.
    const LayerNorm norm = attention_norm(s, p.weights, a, n);
    NOEMA_TRY(layer_norm(norm, c));
    NOEMA_TRY(linear_weight_gradient(d_qkv, n, p.gradients.qkv, s.precision, c));
    const View d_n = d_branch;
    NOEMA_TRY(linear_input_gradient(p.weights.qkv, d_qkv, d_n, false, s.precision, c));

    // n1 = layer_norm(x) (1 + scale1) + shift1
    return norm_backward(p, d, norm, d_n, p.gradients.attention_norm, c);
}

}  // namespace

Status dit_block_backward(const DitBlockPass& p, const View& condition, const View& d_x, const View& d_condition,
                          Context& c) {
    ArenaScope scope(*c.arena);
    const View d_modulation = c.arena->tensor(DType::f32, 1, kParts * p.shape.C);
    NOEMA_TRY(mlp_backward(p, {d_x, d_modulation, kMlp}, c));
    NOEMA_TRY(attention_backward(p, {d_x, d_modulation, kAttention}, c));
    return modulation_backward(p.weights.modulation, p.gradients.modulation, condition, {d_modulation, d_condition}, c);
}

}  // namespace noema
