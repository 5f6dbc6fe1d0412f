// What the tests of mixture_cdf and of its inverse share: parameters of a given scale, the forward call, a look at every backend.
#pragma once

#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include "doctest/doctest.h"
#include "native/harness.h"

namespace noema::test::mixture {

/// [R,c,3K] parameters: logits normal, means of the given spread, scales around sigma.
struct Shape {
    int64_t R, c, K;
    double sigma = 0.5, spread = 1, h_scale = 1.5;
    std::string text() const {
        return std::to_string(R) + "x" + std::to_string(c) + " K " + std::to_string(K) + " sigma " +
               std::to_string(sigma);
    }
};

inline double normal_of(uint64_t i) {
    const auto uniform = [](uint64_t x) {
        x = (x + seed()) * 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return (static_cast<double>((x ^ (x >> 31)) >> 11) + 0.5) * 0x1p-53;
    };
    return std::sqrt(-2 * std::log(uniform(2 * i))) * std::cos(6.283185307179586 * uniform(2 * i + 1));
}

/// The raw log-scale whose soft clip is log sigma.
inline double raw_of(double sigma) {
    return 4 * std::atanh(std::log(sigma) / 4);
}

inline std::vector<double> parameters_of(const Shape& s) {
    std::vector<double> values;
    for (int64_t scalar = 0; scalar < s.R * s.c; ++scalar)
        for (int64_t j = 0; j < 3 * s.K; ++j) {
            const double x = normal_of(static_cast<uint64_t>(scalar * 3 * s.K + j));
            values.push_back(j < s.K ? x : j < 2 * s.K ? s.spread * x : raw_of(s.sigma) + 0.2 * x);
        }
    return values;
}

inline Field parameters_field(const Shape& s) {
    Field f = input("parameters", {s.R, s.c, 3 * s.K});
    f.fill.values = parameters_of(s);
    return f;
}

inline OpCase forward(const Shape& s) {
    return {"mixture_cdf " + s.text(),
            {input("h", {s.R, s.c}, {.scale = s.h_scale}), parameters_field(s), output("u", {s.R, s.c}),
             output("log_density", {s.R}), output("log_det", {s.R})},
            [](const Tensors& t, Context& c) {
                return mixture_cdf({.h = t["h"],
                                    .parameters = t["parameters"],
                                    .u = t["u"],
                                    .log_density = t["log_density"],
                                    .log_det = t["log_det"]},
                                   c);
            }};
}

inline OpCase without(OpCase c, const std::vector<std::string>& names) {
    for (const std::string& name : names) {
        c.title += " without " + name;
        std::erase_if(c.fields, [&](const Field& f) { return f.name == name; });
    }
    return c;
}

inline Field& field(OpCase& c, const std::string& name) {
    for (Field& f : c.fields)
        if (f.name == name) return f;
    throw std::out_of_range(name);
}

/// Runs on every instruction set and device and hands over the tensors.
inline void each_backend(const OpCase& c, const std::function<void(const Tensors&, const std::string&)>& look) {
    ThreadTeam one(1);
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        if (std::getenv("NOEMA_TEST_DEVICES")) break;
        EachIsa::use(isa);
        const Tensors t = make_tensors(c.fields, c.title, false, false);
        REQUIRE(run_on(c, t, "cpu", one).ok());
        look(t, isa);
    }
    for (const std::string& device : devices()) {
        Tensors t = make_tensors(c.fields, c.title, false, false);
        REQUIRE(run_on_device(c, t, device_engine(device)).ok());
        look(t, device);
    }
}

constexpr int64_t kComponents[] = {1, 2, 3, 4, 7, 8, 9, 16, 17, 27, 64, 65, 130, 300};

}  // namespace noema::test::mixture
