// Random weights, ids and numbers for networks of any family.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "noema/model.h"
#include "noema/rng.h"

namespace noema::test {

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

/// How a tensor's values are spread: normal(0, 1) * scale + shift.
struct Spread {
    float scale, shift;
};

inline Weights random_weights(const std::vector<TensorSpec>& specs,
                              const std::function<Spread(const TensorSpec&)>& spread_of) {
    Weights w;
    uint32_t row = 0;
    for (const TensorSpec& spec : specs) {
        const Spread spread = spread_of(spec);
        std::vector<float> v(spec.size());
        for (size_t i = 0; i < v.size(); ++i)
            v[i] = spread.shift + spread.scale * normal(row, static_cast<uint32_t>(i));
        ++row;
        w.values.push_back(std::move(v));
        w.sources.push_back({.name = spec.name, .shape = spec.shape(), .data = w.values.back().data()});
    }
    return w;
}

inline std::vector<int32_t> random_ids(int64_t n, int64_t V) {
    std::vector<int32_t> ids(n);
    for (int64_t i = 0; i < n; ++i)
        ids[i] = static_cast<int32_t>(V * rng_uniform(3, RngStream::order, 0, 0, static_cast<uint32_t>(i)));
    return ids;
}

template <class T>
bool same_bits(const T* a, const T* b, int64_t n) {
    return std::memcmp(a, b, n * sizeof(T)) == 0;
}

}  // namespace noema::test
