// A masked network of random weights, small enough for every backend.
#pragma once

#include <memory>
#include <vector>

#include "doctest/doctest.h"
#include "models/random_weights.h"
#include "noema/masked_model.h"

namespace noema::test {

inline MaskedConfig small_config(bool tied = true) {
    MaskedConfig c;
    c.vocab_size = 67;
    c.hidden_size = 48;
    c.num_layers = 2;
    c.num_heads = 4;
    c.num_kv_heads = 2;
    c.intermediate_size = 80;
    c.max_positions = 200;
    c.mask_token_id = 66;
    c.tied_embeddings = tied;
    return c;
}

/// Dream's kind: biases, and outputs that predict the next position.
inline MaskedConfig small_dream(bool tied = false) {
    MaskedConfig c = small_config(tied);
    c.qkv_bias = c.shifted = true;
    return c;
}

/// MDLM's kind.
inline MaskedConfig small_dit() {
    MaskedConfig c = small_config(false);
    c.num_kv_heads = c.num_heads;
    c.intermediate_size = 4 * c.hidden_size;
    c.condition_size = 20;
    return c;
}

inline bool is_bias(const TensorSpec& spec) {
    return spec.name.size() > 5 && spec.name.compare(spec.name.size() - 5, 5, ".bias") == 0;
}

inline Weights random_weights(const MaskedConfig& config) {
    return random_weights(masked_tensors(config), [](const TensorSpec& spec) -> Spread {
        if (is_bias(spec)) return {0.2f, 0.0f};
        return spec.is_matrix() ? Spread{0.15f, 0.0f} : Spread{0.1f, 1.0f};
    });
}

inline std::shared_ptr<MaskedModel> load(Engine& engine, const MaskedConfig& config, Precision precision) {
    const Weights w = random_weights(config);
    std::unique_ptr<MaskedModel> model;
    const Status status = MaskedModel::load(engine, config, w.sources, precision, model);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return model;
}

inline std::vector<float> logits_of(Engine& engine, const MaskedModel& model, const MaskedBatch& batch) {
    std::vector<float> logits(batch.B * batch.T * model.config().vocab_size);
    const Status status = model.logits(engine, batch, logits.data(), nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return logits;
}

}  // namespace noema::test
