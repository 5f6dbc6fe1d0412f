// A latent thought model of random weights, small enough for every backend.
#pragma once

#include <memory>
#include <vector>

#include "doctest/doctest.h"
#include "models/random_weights.h"
#include "noema/thought_model.h"

namespace noema::test {

inline ThoughtConfig small_thought(bool tied = true) {
    ThoughtConfig c;
    c.vocab_size = 53;
    c.hidden_size = 32;
    c.num_layers = 3;
    c.num_heads = 4;
    c.intermediate_size = 48;
    c.max_positions = 90;
    c.attention_window = 7;
    c.num_latents = 6;
    c.tied_embeddings = tied;
    return c;
}

inline Weights random_weights(const ThoughtConfig& config) {
    return random_weights(thought_tensors(config), [](const TensorSpec& spec) -> Spread {
        return spec.is_matrix() ? Spread{0.2f, 0.0f} : Spread{0.1f, 1.0f};
    });
}

inline std::shared_ptr<ThoughtModel> load(Engine& engine, const ThoughtConfig& config, const Weights& weights,
                                          Precision precision = Precision::f32) {
    std::unique_ptr<ThoughtModel> model;
    const Status status = ThoughtModel::load(engine, config, weights.sources, precision, model);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return model;
}
inline std::shared_ptr<ThoughtModel> load(Engine& engine, const ThoughtConfig& config,
                                          Precision precision = Precision::f32) {
    return load(engine, config, random_weights(config), precision);
}

inline std::vector<float> normals(uint32_t row, int64_t n, float scale = 1.0f, float shift = 0.0f) {
    std::vector<float> v(n);
    for (int64_t i = 0; i < n; ++i) v[i] = shift + scale * normal(1000 + row, static_cast<uint32_t>(i));
    return v;
}

/// Random sequences and their next tokens, of which some are scored.
struct Texts {
    /// lengths[b]: how many of the T targets of sequence b count.
    Texts(const ThoughtConfig& config, int64_t T, const std::vector<int64_t>& lengths)
        : B(static_cast<int64_t>(lengths.size())), T(T) {
        const std::vector<int32_t> tokens = random_ids(B * (T + 1), config.vocab_size);
        for (int64_t b = 0; b < B; ++b)
            for (int64_t t = 0; t < T; ++t) {
                ids.push_back(tokens[b * (T + 1) + t]);
                targets.push_back(t < lengths[b] ? tokens[b * (T + 1) + t + 1] : -1);
            }
        for (int64_t b = 0; b < B; ++b) seeds.push_back(500 + b);
    }
    ThoughtBatch batch() const { return {.ids = ids.data(), .B = B, .T = T, .targets = targets.data()}; }
    /// One of the sequences.
    ThoughtBatch batch(int64_t b) const {
        return {.ids = ids.data() + b * T, .B = 1, .T = T, .targets = targets.data() + b * T};
    }

    int64_t B, T;
    std::vector<int32_t> ids, targets;
    std::vector<uint64_t> seeds;
};

inline Posterior fitted(Engine& engine, const ThoughtModel& model, const FitTask& task) {
    Posterior out;
    const Status status = model.fit(engine, task, out, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return out;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < a.size() && i < b.size(); ++i)
        most = std::fmax(most, std::fabs(static_cast<double>(a[i]) - b[i]));
    return most;
}

}  // namespace noema::test
