// What a DiT's blocks are modulated by, forward and backward: products of one row, in f32 whatever the model's precision.
#include "models/masked/dit.h"

namespace noema {

namespace {

constexpr int64_t kTimeSize = 256;

/// The embedding of time 0: every cosine is 1, every sine 0.
const std::vector<float>& time_zero() {
    static const std::vector<float> values = [] {
        std::vector<float> v(kTimeSize / 2, 1.0f);
        v.resize(kTimeSize);
        return v;
    }();
    return values;
}

View upload_row(const std::vector<float>& values, int64_t n, Context& c) {
    return c.upload(view(const_cast<float*>(values.data()), DType::f32, 1, n));
}

/// silu(x), a gate whose other side is 1.
Status silu(const Condition& k, const View& x, const View& y, Context& c) {
    return swiglu({.gate = x, .up = k.ones, .y = y}, c);
}

Status silu_backward(const Condition& k, const View& x, const View& d_y, const View& d_x, Context& c) {
    ArenaScope scope(*c.arena);
    const View unused = c.arena->tensor(DType::f32, 1, x.shape[1]);
    return swiglu_backward({.gate = x, .up = k.ones, .d_y = d_y, .d_gate = d_x, .d_up = unused}, c);
}

}  // namespace

void add_dit_tensors(const MaskedConfig& config, std::vector<TensorSpec>& matrices, std::vector<TensorSpec>& vectors) {
    const int64_t C = config.hidden_size, F = config.intermediate_size, K = config.condition_size;
    constexpr TensorUse product = TensorUse::product, exact = TensorUse::exact_product;
    const auto linear = [&](const std::string& name, int64_t rows, int64_t columns, TensorUse use) {
        matrices.push_back({name + ".weight", rows, columns, use});
        vectors.push_back({name + ".bias", rows});
    };
    linear("condition.input", K, kTimeSize, exact);
    linear("condition.output", K, K, exact);
    for (int64_t i = 0; i < config.num_layers; ++i) {
        const std::string name = "layers." + std::to_string(i) + ".";
        vectors.push_back({name + "attention_norm.weight", C});
        matrices.push_back({name + "qkv.weight", 3 * C, C, product});
        matrices.push_back({name + "o.weight", C, C, product});
        vectors.push_back({name + "mlp_norm.weight", C});
        linear(name + "up", F, C, product);
        linear(name + "down", C, F, product);
        linear(name + "modulation", 6 * C, K, exact);
    }
    linear("modulation", 2 * C, K, exact);
    vectors.push_back({"head.bias", config.vocab_size});
}

Status make_condition(const DitWeights& w, Condition& k, Context& c) {
    static const std::vector<float> ones(kWidestCondition, 1.0f);
    const int64_t K = w.output.weight.view.shape[0];
    const auto row = [&] { return c.arena->tensor(DType::f32, 1, K); };
    k = {.time = upload_row(time_zero(), kTimeSize, c),
         .ones = upload_row(ones, K, c),
         .inner = row(),
         .outer = row(),
         .vector = row()};
    const View active = row();
    NOEMA_TRY(biased_linear(w.input, k.time, k.inner, Precision::f32, c));
    NOEMA_TRY(silu(k, k.inner, active, c));
    NOEMA_TRY(biased_linear(w.output, active, k.outer, Precision::f32, c));
    return silu(k, k.outer, k.vector, c);
}

Status condition_backward(const DitWeights& w, const DitGradients& g, const Condition& k, const View& d_vector,
                          Context& c) {
    ArenaScope scope(*c.arena);
    const auto row = [&] { return c.arena->tensor(DType::f32, 1, d_vector.shape[1]); };
    const View d_outer = row(), active = row(), d_active = row(), d_inner = row();

    // vector = silu(outer)
    NOEMA_TRY(silu_backward(k, k.outer, d_vector, d_outer, c));

    // outer = output silu(inner) + b
    NOEMA_TRY(silu(k, k.inner, active, c));
    NOEMA_TRY(biased_linear_gradients(d_outer, active, g.output, Precision::f32, c));
    NOEMA_TRY(linear_input_gradient(w.output.weight, d_outer, d_active, false, Precision::f32, c));
    NOEMA_TRY(silu_backward(k, k.inner, d_active, d_inner, c));

    // inner = input time + b
    return biased_linear_gradients(d_inner, k.time, g.input, Precision::f32, c);
}

Status modulation_of(const BiasedWeight& weight, const View& condition, const View& modulation, Context& c) {
    return biased_linear(weight, condition, modulation, Precision::f32, c);
}

Status modulation_backward(const BiasedWeight& w, const BiasedGradient& g, const View& condition,
                           const ModulationGradients& d, Context& c) {
    NOEMA_TRY(biased_linear_gradients(d.modulation, condition, g, Precision::f32, c));
    return linear_input_gradient(w.weight, d.modulation, d.condition, true, Precision::f32, c);
}

View modulation_part(const View& modulation, int64_t which, int64_t C) {
    return columns_of(modulation, which * C, C);
}

LayerNorm modulated_norm(const BlockShape& s, const View& x, const View& weight, const View& modulation,
                         int64_t first) {
    return {.x = x,
            .weight = weight,
            .scale = modulation_part(modulation, first + 1, s.C),
            .shift = modulation_part(modulation, first, s.C),
            .rows_per_sequence = s.rows(),
            .epsilon = s.epsilon};
}

}  // namespace noema
