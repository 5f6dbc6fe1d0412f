// What a flow does to scalars one by one: their order, the affine coupling, the features of the autoregressive head.
#include <cmath>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

/// A training batch: sequences x positions of c scalars.
constexpr int64_t kSequences = 64, kPositions = 256, kRows = kSequences * kPositions;

std::string sized(const std::string& what, int64_t c) {
    return what + " " + std::to_string(kSequences) + "x" + std::to_string(kPositions) + "x" + std::to_string(c);
}

int64_t even_odd(int64_t k, int64_t c) {
    const int64_t evens = (c + 1) / 2;
    return k < evens ? 2 * k : 2 * (k - evens) + 1;
}

Case order(int64_t c) {
    constexpr int64_t B = kSequences, S = kPositions;
    Case k;
    k.name = sized("reorder/reverse even-odd", c);
    k.op.fields = {input("x", {B, S, c}), input("first", {c}), output("y", {B, S, c})};
    k.op.run = [](const Tensors& t, Context& context) {
        return reorder(
            {.x = t["x"], .first = t["first"], .y = t["y"], .channels = ChannelOrder::even_odd, .reverse = true},
            context);
    };
    k.work.bytes = 8.0 * static_cast<double>(B * S * c);
    k.error = [=](const Tensors& t) {
        const float *x = t["x"].as<float>(), *first = t["first"].as<float>(), *y = t["y"].as<float>();
        return worst_sample(B * S * c, [&](int64_t i) {
            const int64_t b = i / (S * c), s = i / c % S, at = i % c;
            return Compared{s ? x[(b * S + S - s) * c + even_odd(at, c)] : first[at], y[i]};
        });
    };
    return k;
}

Case order_backward(int64_t c) {
    constexpr int64_t B = kSequences, S = kPositions;
    Case k;
    k.name = sized("reorder_backward/reverse even-odd", c);
    k.op.fields = {input("d_y", {B, S, c}), output("d_x", {B, S, c}), in_out("d_first", {c})};
    k.op.run = [](const Tensors& t, Context& context) {
        return reorder_backward({.d_y = t["d_y"],
                                 .d_x = t["d_x"],
                                 .d_first = t["d_first"],
                                 .channels = ChannelOrder::even_odd,
                                 .reverse = true},
                                context);
    };
    k.work.bytes = 8.0 * static_cast<double>(B * S * c);
    k.error = [=](const Tensors& t) {
        const float *d_y = t["d_y"].as<float>(), *d_x = t["d_x"].as<float>();
        return worst_sample(B * S * c, [&](int64_t i) {  // as y's element i, s > 0
            const int64_t b = i / (S * c), s = i / c % S, at = i % c;
            if (s == 0) return Compared{0, d_x[b * S * c + at]};
            return Compared{d_y[i], d_x[(b * S + S - s) * c + even_odd(at, c)]};
        });
    };
    return k;
}

/// `floats` and `exps`: of a scalar.
Case couple(const std::string& what, int64_t c, double floats, double exps) {
    Case k;
    k.name = what + "/" + std::to_string(kRows) + "x" + std::to_string(c);
    k.op.fields = {input("h", {kRows, c}), input("parameters", {kRows, 2 * c}), output("u", {kRows, c})};
    k.work.bytes = 4 * floats * static_cast<double>(kRows * c);
    k.work.exps = exps * static_cast<double>(kRows * c);
    return k;
}

double clipped(const Tensors& t, int64_t i, int64_t c) {
    return 4 * std::tanh(t["parameters"].as<float>()[i / c * 2 * c + i % c] / 4.0);
}
double shift(const Tensors& t, int64_t i, int64_t c) {
    return t["parameters"].as<float>()[i / c * 2 * c + c + i % c];
}

Case forward(int64_t c) {
    Case k = couple("affine", c, 4, 2);
    k.op.fields.push_back(output("log_density", {kRows}));
    k.op.run = [](const Tensors& t, Context& context) {
        return affine({.h = t["h"], .parameters = t["parameters"], .u = t["u"], .log_density = t["log_density"]},
                      context);
    };
    k.error = [c](const Tensors& t) {
        const float *h = t["h"].as<float>(), *u = t["u"].as<float>();
        return worst_sample(kRows * c, [&](int64_t i) {
            return Compared{(h[i] - shift(t, i, c)) * std::exp(-clipped(t, i, c)), u[i]};
        });
    };
    return k;
}

Case inverse(int64_t c) {
    Case k = couple("affine_inverse", c, 4, 2);
    k.op.run = [](const Tensors& t, Context& context) {
        return affine_inverse({.u = t["h"], .parameters = t["parameters"], .h = t["u"]}, context);
    };
    k.error = [c](const Tensors& t) {
        const float *h = t["h"].as<float>(), *u = t["u"].as<float>();
        return worst_sample(kRows * c, [&](int64_t i) {
            return Compared{h[i] * std::exp(clipped(t, i, c)) + shift(t, i, c), u[i]};
        });
    };
    return k;
}

Case backward(int64_t c) {
    Case k = couple("affine_backward", c, 6, 2);
    k.op.fields.push_back(input("d_log_density", {kRows}));
    k.op.fields.push_back(output("d_parameters", {kRows, 2 * c}));
    k.op.run = [](const Tensors& t, Context& context) {
        return affine_backward({.h = t["h"],
                                .parameters = t["parameters"],
                                .d_log_density = t["d_log_density"],
                                .d_h = t["u"],
                                .d_parameters = t["d_parameters"]},
                               context);
    };
    k.error = [c](const Tensors& t) {
        const float *h = t["h"].as<float>(), *d_h = t["u"].as<float>();
        return worst_sample(kRows * c, [&](int64_t i) {
            const double scale = std::exp(-clipped(t, i, c));
            return Compared{-t["d_log_density"].as<float>()[i / c] * (h[i] - shift(t, i, c)) * scale * scale, d_h[i]};
        });
    };
    return k;
}

double elu(double x) {
    return x > 0 ? x : std::expm1(x);
}

/// What goes into gelu for feature n of row r.
double inner(const Tensors& t, int64_t r, int64_t n, int64_t E) {
    const float* w = t["weight"].as<float>() + 3 * n;
    const double x = t["x"].at<float>(r)[n / E];
    return w[0] * x + w[1] * elu(x) + w[2] * elu(-x) + t["bias"].as<float>()[n];
}

/// An exponential per feature and one per scalar.
Case head(const std::string& what, int64_t c, int64_t E, double floats) {
    const int64_t N = (c - 1) * E;
    Case k;
    k.name = what + "/" + std::to_string(kRows) + "x" + std::to_string(c) + " features " + std::to_string(E);
    k.op.fields = {input("x", {kRows, c}), input("weight", {c - 1, E, 3}), input("bias", {c - 1, E})};
    k.work.bytes = 4 * floats * static_cast<double>(kRows * N);
    k.work.exps = static_cast<double>(kRows * (N + c - 1));
    return k;
}

Case features(int64_t c, int64_t E) {
    const int64_t N = (c - 1) * E;
    Case k = head("maf_features", c, E, 1);
    k.op.fields.push_back(output("y", {kRows, N}));
    k.op.run = [](const Tensors& t, Context& context) {
        return maf_features({.x = t["x"], .weight = t["weight"], .bias = t["bias"], .y = t["y"]}, context);
    };
    k.error = [=](const Tensors& t) {
        return worst_sample(kRows * N, [&](int64_t i) {
            const double x = inner(t, i / N, i % N, E);
            return Compared{0.5 * x * std::erfc(-x * std::sqrt(0.5)), t["y"].as<float>()[i]};
        });
    };
    return k;
}

Case features_backward(int64_t c, int64_t E) {
    const int64_t N = (c - 1) * E;
    Case k = head("maf_features_backward", c, E, 1);
    for (Field f : {input("d_y", {kRows, N}), in_out("d_x", {kRows, c}, {.scale = 0}),
                    in_out("d_weight", {c - 1, E, 3}), in_out("d_bias", {c - 1, E}, {.scale = 0})})
        k.op.fields.push_back(std::move(f));
    k.op.run = [](const Tensors& t, Context& context) {
        return maf_features_backward({.x = t["x"],
                                      .weight = t["weight"],
                                      .bias = t["bias"],
                                      .d_y = t["d_y"],
                                      .d_x = t["d_x"],
                                      .d_weight = t["d_weight"],
                                      .d_bias = t["d_bias"]},
                                     context);
    };
    k.error = [=](const Tensors& t) {
        return worst_sample(std::min<int64_t>(N, 8), [&](int64_t n) {
            double sum = 0;
            for (int64_t r = 0; r < kRows; ++r) {
                const double x = inner(t, r, n, E);
                const double slope = 0.5 * std::erfc(-x * std::sqrt(0.5)) + x * std::exp(-0.5 * x * x) * 0.3989422804;
                sum += slope * t["d_y"].at<float>(r)[n];
            }
            return Compared{sum, t["d_bias"].as<float>()[n]};
        });
    };
    return k;
}

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const int64_t c : {5, 16, 64}) {
        list.push_back(order(c));
        list.push_back(order_backward(c));
        list.push_back(forward(c));
        list.push_back(backward(c));
        list.push_back(inverse(c));
    }
    for (const auto& [c, E] : {std::pair<int64_t, int64_t>{5, 4}, {5, 18}, {16, 4}, {64, 1}, {5, 96}}) {
        list.push_back(features(c, E));
        list.push_back(features_backward(c, E));
    }
    return list;
}

const Registered registered(cases);

}  // namespace
