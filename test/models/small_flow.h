// Flow stacks of random weights, small enough for every backend.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "models/random_weights.h"
#include "noema/flow_model.h"

namespace noema::test {

/// One flow of each kind, in alternating directions.
inline FlowConfig small_flow_config(int64_t P = 1, bool mixed = false, bool prefixed = false) {
    FlowConfig c;
    c.vocab_size = 29;
    c.latent_size = 4;
    c.patch_size = P;
    c.hidden_size = 24;
    c.num_heads = 2;
    c.intermediate_size = 40;
    c.max_positions = 80;
    c.channel_mix = mixed;
    c.prefix_conditioning = prefixed;
    c.flows = {{.kind = FlowKind::mixture_rosenblatt, .num_layers = 2},
               {.kind = FlowKind::mixture_cdf,
                .reverse = true,
                .num_layers = 1,
                .num_components = 5,
                .maf_hidden = 8,
                .maf_features = 3},
               {.kind = FlowKind::affine, .num_layers = 1},
               {.kind = FlowKind::mixture_rosenblatt, .reverse = true, .num_layers = 1, .num_components = 6}};
    return c;
}

/// Clusters that overlap: between clusters that do not, a state says little about the latents that led to it.
inline Weights flow_weights(const FlowConfig& config) {
    return random_weights(flow_tensors(config), [](const TensorSpec& spec) -> Spread {
        if (spec.name == "codebook.mean" || spec.name.find("components.mean") != std::string::npos) return {1.0f, 0.0f};
        if (spec.name.find("log_sigma") != std::string::npos) return {0.1f, -0.1f};
        if (spec.name.find("norm.weight") != std::string::npos) return {0.1f, 1.0f};
        if (spec.is_matrix()) return {0.12f, 0.0f};
        return {0.3f, 0.0f};
    });
}

inline std::shared_ptr<FlowModel> load(Engine& engine, const FlowConfig& config, Precision precision = Precision::f32) {
    const Weights w = flow_weights(config);
    std::unique_ptr<FlowModel> model;
    const Status status = FlowModel::load(engine, config, w.sources, precision, model);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return model;
}

inline std::vector<float> random_normals(int64_t n, uint32_t row = 0) {
    std::vector<float> v(n);
    for (int64_t i = 0; i < n; ++i) v[i] = normal(1000 + row, static_cast<uint32_t>(i));
    return v;
}

/// The same numbers as states.
inline std::vector<double> wide(const std::vector<float>& v) {
    return {v.begin(), v.end()};
}

/// A batch of random ids with the noise of its encoder.
struct Text {
    FlowBatch batch;
    std::vector<int32_t> ids;
    std::vector<float> noise;

    Text(const FlowConfig& c, int64_t B, int64_t T, int64_t prefix = 0)
        : ids(random_ids(B * T, c.vocab_size)), noise(random_normals(B * (T - prefix) * c.latent_size)) {
        batch = {.ids = ids.data(), .B = B, .T = T, .prefix = prefix};
    }
};

inline FlowInverse invert(Engine& engine, const FlowModel& model, const FlowBatch& batch, const std::vector<double>& h,
                          const InverseRange& range = {}) {
    FlowInverse out;
    const Status status = model.invert(engine, batch, h.data(), range, out, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return out;
}

template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
    REQUIRE(a.size() == b.size());
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double error = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

}  // namespace noema::test
