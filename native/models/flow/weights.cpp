#include "models/flow/weights.h"

#include "models/layers/block_roles.h"

namespace noema {

namespace {

/// Walks the roles of a stack in one place: `matrix`, `linear` (a matrix and its bias) and `vector` are told where each canonical
/// name belongs.
template <class Stack, class Matrix, class Linear, class Vector>
void each_role(const FlowConfig& config, Stack& stack, const Matrix& matrix, const Linear& linear,
               const Vector& vector) {
    vector("codebook.mean", stack.mean);
    vector("codebook.log_sigma", stack.log_sigma);
    stack.flows.resize(config.flows.size());
    for (size_t l = 0; l < config.flows.size(); ++l) {
        const FlowStage& stage = config.flows[l];
        auto& f = stack.flows[l];
        const std::string at = "flows." + std::to_string(l) + ".";
        f.blocks.resize(stage.num_layers);
        vector(at + "start", f.start);
        linear(at + "input", f.input);
        if (config.prefix_conditioning) matrix(at + "context.weight", f.context);
        each_block_role(at, f.blocks, matrix, vector);
        vector(at + "norm.weight", f.norm);
        if (stage.readout_hidden) {
            linear(at + "readout.input", f.readout);
            matrix(at + "readout.output.weight", f.readout_output);
        }
        if (stage.kind == FlowKind::mixture_cdf) {
            linear(at + "maf.embed", f.embed);
            linear(at + "maf.context", f.maf_context);
            vector(at + "maf.features.weight", f.features);
            linear(at + "maf.out", f.maf_out);
            continue;
        }
        linear(at + "head", f.head);
        if (stage.kind == FlowKind::affine || !stage.num_components) continue;
        vector(at + "components.mean", f.mean);
        vector(at + "components.log_sigma", f.log_sigma);
    }
}

}  // namespace

FlowWeights bind_weights(const FlowConfig& config, const std::function<Weight(const std::string&)>& find) {
    FlowWeights w;
    each_role(
        config, w, [&](const std::string& name, Weight& role) { role = find(name); },
        [&](const std::string& name, BiasedWeight& role) {
            role = {find(name + ".weight"), find(name + ".bias").view};
        },
        [&](const std::string& name, View& role) { role = find(name).view; });
    return w;
}

FlowGradients bind_gradients(const FlowConfig& config, const std::function<View(const std::string&)>& find) {
    FlowGradients g;
    const auto bind = [&](const std::string& name, View& role) { role = find(name); };
    each_role(
        config, g, bind,
        [&](const std::string& name, BiasedGradient& role) {
            role = {find(name + ".weight"), find(name + ".bias")};
        },
        bind);
    return g;
}

Coupling coupling_of(const FlowConfig& config, const FlowWeights& weights, size_t flow) {
    const StageWeights& w = weights.flows[flow];
    return {config, config.flows[flow], w, w.mean ? w.mean : weights.mean,
            w.log_sigma ? w.log_sigma : weights.log_sigma};
}

}  // namespace noema
