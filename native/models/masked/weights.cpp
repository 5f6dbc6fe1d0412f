#include "models/masked/weights.h"

namespace noema {

namespace {

/// Walks the roles of a network in one place: `matrix` and `vector` are told where each canonical name belongs.
template <class Blocks, class Matrix, class Vector>
void each_block_role(Blocks& blocks, const Matrix& matrix, const Vector& vector) {
    for (size_t i = 0; i < blocks.size(); ++i) {
        auto& b = blocks[i];
        const std::string prefix = "layers." + std::to_string(i) + ".";
        vector(prefix + "attention_norm.weight", b.attention_norm);
        matrix(prefix + "q.weight", b.q);
        matrix(prefix + "k.weight", b.k);
        matrix(prefix + "v.weight", b.v);
        matrix(prefix + "o.weight", b.o);
        vector(prefix + "mlp_norm.weight", b.mlp_norm);
        matrix(prefix + "gate.weight", b.gate);
        matrix(prefix + "up.weight", b.up);
        matrix(prefix + "down.weight", b.down);
    }
}

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
        w.blocks, [&](const std::string& name, Weight& role) { role = find(name); },
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
    each_block_role(g.blocks, bind, bind);
    return g;
}

}  // namespace noema
