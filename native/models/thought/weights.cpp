#include "models/thought/weights.h"

namespace noema {

ThoughtWeights bind_weights(const ThoughtConfig& config, const std::function<Weight(const std::string&)>& find) {
    ThoughtWeights w;
    w.blocks.resize(config.num_layers);
    const auto matrix = [&](const std::string& name, Weight& role) { role = find(name); };
    const auto vector = [&](const std::string& name, View& role) { role = find(name).view; };
    each_language_model_role(w, config.tied_embeddings, matrix, vector);
    each_cross_role(w.blocks, matrix, vector);
    return w;
}

ThoughtGradients bind_gradients(const ThoughtConfig& config, const std::function<View(const std::string&)>& find) {
    ThoughtGradients g;
    g.blocks.resize(config.num_layers);
    const auto bind = [&](const std::string& name, View& role) { role = find(name); };
    each_language_model_role(g, config.tied_embeddings, bind, bind);
    each_cross_role(g.blocks, bind, bind);
    return g;
}

}  // namespace noema
