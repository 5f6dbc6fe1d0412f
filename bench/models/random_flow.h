// What the benches of flows invert: a model of random weights, and base noise.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "models/random_weights.h"
#include "noema/flow_model.h"

namespace noema::bench {

/// What lives from prepare() to the end of a workload.
struct RandomFlow {
    std::unique_ptr<FlowModel> model;
    std::vector<int32_t> ids;  // [B,N]
    std::vector<double> u;     // [B,N,d]
    int64_t B = 0;

    /// `head`: the spread of the heads' weights, by which a flow moves what it is given. Tokens lie as far apart as a trained codebook's.
    Status load(Engine& engine, const FlowConfig& config, int64_t sequences, Precision precision, float head) {
        const test::Weights weights =
            test::random_weights(flow_tensors(config), [&](const TensorSpec& spec) -> test::Spread {
                if (spec.name.find("norm.weight") != std::string::npos) return {0.1f, 1.0f};
                if (spec.name == "codebook.mean") return {1, 0};
                if (spec.name == "codebook.log_sigma") return {0.1f, -1.8f};
                if (spec.name.find("head.weight") != std::string::npos) return {head, 0.0f};
                return {0.02f, 0.0f};
            });
        B = sequences;
        ids.assign(B * config.max_positions, 0);
        u.resize(ids.size() * config.latent_size);
        for (size_t i = 0; i < u.size(); ++i) u[i] = static_cast<double>(test::normal(1, static_cast<uint32_t>(i)));
        return FlowModel::load(engine, config, weights.sources, precision, model);
    }

    Status invert(Engine& engine, const InverseRange& range, FlowInverse& out) const {
        const FlowBatch batch{.ids = ids.data(), .B = B, .T = static_cast<int64_t>(ids.size()) / B};
        return model->invert(engine, batch, u.data(), range, out, nullptr);
    }
};

inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    double worst = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
        const double error = std::fabs(a[i] - b[i]);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

}  // namespace noema::bench
