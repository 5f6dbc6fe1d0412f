#include "models/masked/weights.h"

namespace noema {

MaskedWeights bind_weights(const MaskedConfig& config, const std::function<Weight(const std::string&)>& find) {
    MaskedWeights w;
    w.blocks.resize(config.num_layers);
    each_language_model_role(
        w, config.tied_embeddings, [&](const std::string& name, Weight& role) { role = find(name); },
        [&](const std::string& name, View& role) { role = find(name).view; });
    return w;
}

MaskedGradients bind_gradients(const MaskedConfig& config, const std::function<View(const std::string&)>& find) {
    MaskedGradients g;
    g.blocks.resize(config.num_layers);
    const auto bind = [&](const std::string& name, View& role) { role = find(name); };
    each_language_model_role(g, config.tied_embeddings, bind, bind);
    return g;
}

}  // namespace noema
