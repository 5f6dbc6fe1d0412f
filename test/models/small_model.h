// A masked network of random weights, small enough for every backend.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "noema/model.h"
#include "noema/rng.h"

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

/// Random weights and the sources that describe them.
struct Weights {
    std::vector<std::vector<float>> values;
    std::vector<TensorSource> sources;
};

inline float normal(uint32_t row, uint32_t lane) {
    const float u = rng_uniform(7, RngStream::init, 0, row, 2 * lane),
                v = rng_uniform(7, RngStream::init, 0, row, 2 * lane + 1);
    return std::sqrt(-2.0f * std::log(u)) * std::cos(6.2831853f * v);
}

inline Weights random_weights(const MaskedConfig& config) {
    Weights w;
    uint32_t row = 0;
    for (const TensorSpec& spec : masked_tensors(config)) {
        std::vector<float> v(spec.size());
        for (size_t i = 0; i < v.size(); ++i)
            v[i] = spec.is_matrix() ? 0.15f * normal(row, static_cast<uint32_t>(i))
                                    : 1.0f + 0.1f * normal(row, static_cast<uint32_t>(i));
        ++row;
        w.values.push_back(std::move(v));
        TensorSource s;
        s.name = spec.name;
        s.shape = spec.is_matrix() ? std::vector<int64_t>{spec.rows, spec.columns} : std::vector<int64_t>{spec.rows};
        s.data = w.values.back().data();
        w.sources.push_back(s);
    }
    return w;
}

inline std::shared_ptr<MaskedModel> load(Engine& engine, const MaskedConfig& config, Precision precision) {
    const Weights w = random_weights(config);
    std::unique_ptr<MaskedModel> model;
    const Status status = MaskedModel::load(engine, config, w.sources, precision, model);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return model;
}

inline std::vector<int32_t> random_ids(int64_t n, int64_t V) {
    std::vector<int32_t> ids(n);
    for (int64_t i = 0; i < n; ++i)
        ids[i] = static_cast<int32_t>(V * rng_uniform(3, RngStream::order, 0, 0, static_cast<uint32_t>(i)));
    return ids;
}

inline std::vector<float> logits_of(Engine& engine, const MaskedModel& model, const MaskedBatch& batch) {
    std::vector<float> logits(batch.B * batch.T * model.config().vocab_size);
    const Status status = model.logits(engine, batch, logits.data(), nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return logits;
}

inline bool same_bits(const float* a, const float* b, int64_t n) {
    return std::memcmp(a, b, n * sizeof(float)) == 0;
}

}  // namespace noema::test
