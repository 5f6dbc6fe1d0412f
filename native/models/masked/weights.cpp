#include "models/masked/weights.h"

#include "models/layers/block_roles.h"

namespace noema {

namespace {

const char* head_name(const MaskedConfig& config) {
    return config.tied_embeddings ? "embed.weight" : "head.weight";
}

}  // namespace

MaskedWeights bind_weights(const MaskedConfig& config, const std::function<Weight(const std::string&)>& find) {
    MaskedWeights w;
    w.embed = find("embed.weight");
    w.norm = find("norm.weight").view;
    w.head = find(head_name(config));
    w.blocks.resize(config.num_layers);
    each_block_role(
        "", w.blocks, [&](const std::string& name, Weight& role) { role = find(name); },
        [&](const std::string& name, View& role) { role = find(name).view; });
    return w;
}

MaskedGradients bind_gradients(const MaskedConfig& config, const std::function<View(const std::string&)>& find) {
    MaskedGradients g;
    g.embed = find("embed.weight");
    g.norm = find("norm.weight");
    g.head = find(head_name(config));
    g.blocks.resize(config.num_layers);
    const auto bind = [&](const std::string& name, View& role) { role = find(name); };
    each_block_role("", g.blocks, bind, bind);
    return g;
}

}  // namespace noema
