#include <cmath>
#include <string>
#include <vector>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

struct Shape {
    int64_t B, T, H, D, M;

    double tokens() const { return static_cast<double>(B * T * H); }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
};

/// Which head of which token; c: which of its values.
struct Place {
    int64_t b, t, h, c;

    Place(const Shape& s, int64_t i) : b(i / s.D / s.H / s.T), t(i / s.D / s.H % s.T), h(i / s.D % s.H), c(i % s.D) {}
};

double dot(const View& x, const View& y, const Place& at, int64_t m) {
    double sum = 0;
    for (int64_t c = 0; c < x.shape[3]; ++c)
        sum += double{x.at<float>(at.b, at.t, at.h)[c]} * y.at<float>(at.b, m, at.h)[c];
    return sum;
}

std::vector<double> weights_of(const Shape& s, const Tensors& t, const Place& at) {
    std::vector<double> weight(static_cast<size_t>(s.M));
    double total = 0;
    for (int64_t m = 0; m < s.M; ++m) total += weight[m] = std::exp(s.scale() * dot(t["q"], t["k"], at, m));
    for (double& w : weight) w /= total;
    return weight;
}

Case forward(const Shape& s) {
    Case c;
    c.name = "cross_attention/B" + std::to_string(s.B) + " H" + std::to_string(s.H) + " T" + std::to_string(s.T) +
             " D" + std::to_string(s.D) + " M" + std::to_string(s.M);
    c.op.fields = {input("q", {s.B, s.T, s.H, s.D}), input("k", {s.B, s.M, s.H, s.D}), input("v", {s.B, s.M, s.H, s.D}),
                   output("out", {s.B, s.T, s.H, s.D})};
    c.op.run = [s](const Tensors& t, Context& context) {
        return cross_attention({.q = t["q"], .k = t["k"], .v = t["v"], .out = t["out"], .scale = s.scale()}, context);
    };
    const double latents = static_cast<double>(s.M * s.D);
    c.work = {.flops = 4 * latents * s.tokens(),
              .bytes = 4.0 * static_cast<double>(s.D) * 2 * (s.tokens() + static_cast<double>(s.B * s.M * s.H)),
              .exps = static_cast<double>(s.M) * s.tokens()};
    c.error = [s](const Tensors& t) {
        return worst_sample(t["out"].size(), [&](int64_t i) {
            const Place at(s, i);
            const std::vector<double> weight = weights_of(s, t, at);
            double truth = 0;
            for (int64_t m = 0; m < s.M; ++m) truth += weight[m] * t["v"].at<float>(at.b, m, at.h)[at.c];
            return Compared{truth, t["out"].as<float>()[i]};
        });
    };
    return c;
}

// Only d_q is compared; tests judge the other two.
Case backward(const Shape& s) {
    Case c = forward(s);
    c.name.replace(0, 15, "cross_attention_backward");
    c.op.fields.back() = input("d_out", {s.B, s.T, s.H, s.D});
    c.op.fields.push_back(output("d_q", {s.B, s.T, s.H, s.D}));
    for (const char* name : {"d_k", "d_v"}) c.op.fields.push_back(output(name, {s.B, s.M, s.H, s.D}));
    c.op.run = [s](const Tensors& t, Context& context) {
        return cross_attention_backward({.q = t["q"],
                                         .k = t["k"],
                                         .v = t["v"],
                                         .d_out = t["d_out"],
                                         .d_q = t["d_q"],
                                         .d_k = t["d_k"],
                                         .d_v = t["d_v"],
                                         .scale = s.scale()},
                                        context);
    };
    c.work.flops *= 2.5;
    c.work.bytes *= 1.5;
    c.error = [s](const Tensors& t) {
        return worst_sample(t["d_q"].size(), [&](int64_t i) {
            const Place at(s, i);
            const std::vector<double> weight = weights_of(s, t, at);
            double delta = 0, truth = 0;
            for (int64_t m = 0; m < s.M; ++m) delta += weight[m] * dot(t["d_out"], t["v"], at, m);
            for (int64_t m = 0; m < s.M; ++m)
                truth += s.scale() * weight[m] * (dot(t["d_out"], t["v"], at, m) - delta) *
                         t["k"].at<float>(at.b, m, at.h)[at.c];
            return Compared{truth, t["d_q"].as<float>()[i]};
        });
    };
    return c;
}

const Registered registered([] {
    std::vector<Case> list;
    // The models of the paper have 4, 8 and 16 latents a layer; the last one's tensors stay in the caches.
    for (const int64_t M : {4, 8, 16}) {
        list.push_back(forward({8, 1024, 8, 64, M}));
        list.push_back(backward({8, 1024, 8, 64, M}));
    }
    list.push_back(forward({1, 128, 8, 64, 8}));
    list.push_back(backward({1, 128, 8, 64, 8}));
    return list;
});

}  // namespace
