#include <cmath>

#include "ops/bench.h"
#include "ops/searches.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

struct Size {
    int64_t R, c, K;
    double sigma = 0.3;
    int64_t scalars() const { return R * c; }
};

/// Logits and means normal, scales within a quarter of sigma.
Field parameters_field(const Size& s) {
    Field f = input("parameters", {s.R, s.c, 3 * s.K});
    const double raw = 4 * std::atanh(std::log(s.sigma) / 4);
    uint64_t state = 1;
    const auto uniform = [&] {
        return (static_cast<double>((state = state * 6364136223846793005u + 1442695040888963407u) >> 11) + 0.5) *
               0x1p-53;
    };
    for (int64_t i = 0; i < s.scalars() * 3 * s.K; ++i) {
        const double x = std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
        f.fill.values.push_back(i % (3 * s.K) < 2 * s.K ? x : raw + 0.2 * x);
    }
    return f;
}

/// One scalar's mixture in double, linear: the bench's points lie where that is right.
struct Mixture {
    double below = 0, density = 0, by_mean = 0;

    Mixture(const Tensors& t, const Size& s, int64_t scalar, double h) {
        const float* p = t["parameters"].as<float>() + scalar * 3 * s.K;
        double all = 0;
        for (int64_t k = 0; k < s.K; ++k) all += std::exp(static_cast<double>(p[k]));
        for (int64_t k = 0; k < s.K; ++k) {
            const double scale = std::exp(4 * std::tanh(p[2 * s.K + k] / 4.0)), x = (h - p[s.K + k]) / scale;
            const double own = std::exp(p[k] - x * x / 2) / (all * scale * 2.5066282746310002);
            below += std::exp(static_cast<double>(p[k])) / all * 0.5 * std::erfc(-x * std::sqrt(0.5));
            density += own;
            by_mean += own * x / scale;
        }
    }
};

double normal_below(double x) {
    return 0.5 * std::erfc(-x * std::sqrt(0.5));
}

Case named(const std::string& op, const Size& s, double floats, double exps) {
    Case c;
    char text[80];
    std::snprintf(text, sizeof text, "%s/%lld scalars, K %lld, sigma %g", op.c_str(),
                  static_cast<long long>(s.scalars()), static_cast<long long>(s.K), s.sigma);
    c.name = text;
    c.work.bytes = 4.0 * floats * static_cast<double>(s.scalars());
    c.work.exps = exps * static_cast<double>(s.scalars() * s.K);
    return c;
}

// Per component: the weight's exp, the soft clip's, the scale's, the bell's.
Case forward(const Size& s) {
    Case c = named("mixture_cdf", s, 2.0 + 3.0 * static_cast<double>(s.K), 4);
    c.op.fields = {input("h", {s.R, s.c}), parameters_field(s), output("u", {s.R, s.c}), output("log_det", {s.R})};
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_cdf({.h = t["h"], .parameters = t["parameters"], .u = t["u"], .log_det = t["log_det"]}, context);
    };
    c.error = [s](const Tensors& t) {
        return worst_sample(s.scalars(), [&](int64_t i) {
            const Mixture m(t, s, i, t["h"].as<float>()[i]);
            return Compared{m.below, normal_below(t["u"].as<float>()[i])};
        });
    };
    c.scalars = static_cast<double>(s.scalars());
    c.evaluations = [scalars = c.scalars](const Tensors&) { return scalars; };
    return c;
}

Case backward(const Size& s) {
    Case c = named("mixture_cdf_backward", s, 3.0 + 6.0 * static_cast<double>(s.K), 4);
    c.op.fields = {input("h", {s.R, s.c}),    parameters_field(s),       input("d_u", {s.R, s.c}),
                   input("d_log_det", {s.R}), output("d_h", {s.R, s.c}), output("d_parameters", {s.R, s.c, 3 * s.K})};
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_cdf_backward({.h = t["h"],
                                     .parameters = t["parameters"],
                                     .d_u = t["d_u"],
                                     .d_log_det = t["d_log_det"],
                                     .d_h = t["d_h"],
                                     .d_parameters = t["d_parameters"]},
                                    context);
    };
    c.error = [s](const Tensors& t) {
        return worst_sample(s.scalars(), [&](int64_t i) {
            const Mixture m(t, s, i, t["h"].as<float>()[i]);
            double u = 0;  // P(u) = F(h), by Newton
            for (int n = 0; n < 60; ++n)
                u +=
                    std::fmax(-1, std::fmin(1, (m.below - normal_below(u)) * 2.5066282746310002 * std::exp(u * u / 2)));
            const double d_log_det = t["d_log_det"].as<float>()[i / s.c];
            const double d_u = t["d_u"].as<float>()[i] + u * d_log_det;
            return Compared{
                d_u * m.density * 2.5066282746310002 * std::exp(u * u / 2) - d_log_det * m.by_mean / m.density,
                t["d_h"].as<float>()[i]};
        });
    };
    c.tolerance = 1e-4;  // of u in double, found to 1e-9 or so in the tails
    return c;
}

// A search takes three evaluations or so of one exp a component, after two for weight and scale and one for the clip.
Case inverse(const Size& s) {
    Case c = named("mixture_cdf_inverse", s, 2.0 + 3.0 * static_cast<double>(s.K), 6);
    c.op.fields = {input("u", {s.R, s.c}), parameters_field(s), output("h", {s.R, s.c}),
                   output("evaluations", {s.R}, DType::i32)};
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_cdf_inverse(
            {.u = t["u"], .parameters = t["parameters"], .h = t["h"], .evaluations = t["evaluations"]}, context);
    };
    c.error = [s](const Tensors& t) {
        const double each = evaluations_of(t) / static_cast<double>(s.scalars());
        if (each > kMostEvaluations) return each;
        return worst_sample(s.scalars(), [&](int64_t i) {
            const Mixture m(t, s, i, t["h"].as<float>()[i]);
            return Compared{m.below, normal_below(t["u"].as<float>()[i])};
        });
    };
    c.scalars = static_cast<double>(s.scalars());
    c.evaluations = evaluations_of;
    return c;
}

Case draw(const Size& s) {
    Case c = named("mixture_cdf_draw", s, 3.0 + static_cast<double>(s.K), 1);
    c.op.fields = {input("uniform", {s.R, s.c}, {.scale = 0.1, .shift = 0.5}), input("normal", {s.R, s.c}),
                   parameters_field(s), output("h", {s.R, s.c})};
    c.op.run = [](const Tensors& t, Context& context) {
        return mixture_cdf_draw(
            {.uniform = t["uniform"], .normal = t["normal"], .parameters = t["parameters"], .h = t["h"]}, context);
    };
    // Some component's value, and on the right side of the cumulative weights.
    c.error = [s](const Tensors& t) {
        return worst_sample(s.scalars(), [&](int64_t i) {
            const float* p = t["parameters"].as<float>() + i * 3 * s.K;
            double all = 0, reached = 0;
            for (int64_t k = 0; k < s.K; ++k) all += std::exp(static_cast<double>(p[k]));
            const double goal = t["uniform"].as<float>()[i] * all, h = t["h"].as<float>()[i];
            double nearest = 1e30;
            for (int64_t k = 0; k < s.K; ++k) {
                const double before = reached - 1e-5 * all,
                             after = (reached += std::exp(static_cast<double>(p[k]))) + 1e-5 * all;
                const double own =
                    p[s.K + k] + std::exp(4 * std::tanh(p[2 * s.K + k] / 4.0)) * t["normal"].as<float>()[i];
                if (before <= goal && goal <= after && std::fabs(own - h) < std::fabs(nearest - h)) nearest = own;
            }
            return Compared{nearest, h};
        });
    };
    return c;
}

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const int64_t K : {2, 8, 64})
        for (const auto& make : {forward, backward}) list.push_back(make({256, 16, K, 1.0}));
    for (const int64_t K : {8, 64})
        for (const double sigma : {0.03, 0.1, 0.5, 5.0}) list.push_back(inverse({256, 16, K, sigma}));
    list.push_back(inverse({1, 1, 64, 0.3}));
    list.push_back(draw({256, 16, 64}));
    return list;
}

const Registered registered(cases);

}  // namespace
