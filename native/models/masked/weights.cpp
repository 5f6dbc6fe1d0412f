#include "models/masked/weights.h"

namespace noema {

MaskedWeights bind_weights(const MaskedConfig& config, const std::function<Weight(const std::string&)>& find) {
    MaskedWeights w;
    const auto matrix = [&](const std::string& name, Weight& role) { role = find(name); };
    const auto vector = [&](const std::string& name, View& role) { role = find(name).view; };
    const auto linear = [&](const std::string& name, BiasedWeight& role) {
        role = {find(name + ".weight"), find(name + ".bias").view};
    };
    w.blocks.resize(config.is_dit() ? 0 : config.num_layers);
    each_language_model_role(w, config.tied_embeddings, matrix, vector);
    if (config.qkv_bias) each_bias_role(w.blocks, vector);
    if (!config.is_dit()) return w;
    w.dit.blocks.resize(config.num_layers);
    each_dit_role(w.dit, matrix, linear, vector);
    vector("head.bias", w.head_bias);
    return w;
}

MaskedGradients bind_gradients(const MaskedConfig& config, const std::function<View(const std::string&)>& find) {
    MaskedGradients g;
    const auto bind = [&](const std::string& name, View& role) { role = find(name); };
    const auto linear = [&](const std::string& name, BiasedGradient& role) {
        role = {find(name + ".weight"), find(name + ".bias")};
    };
    g.blocks.resize(config.is_dit() ? 0 : config.num_layers);
    each_language_model_role(g, config.tied_embeddings, bind, bind);
    if (config.qkv_bias) each_bias_role(g.blocks, bind);
    if (!config.is_dit()) return g;
    g.dit.blocks.resize(config.num_layers);
    each_dit_role(g.dit, bind, linear, bind);
    bind("head.bias", g.head_bias);
    return g;
}

}  // namespace noema
