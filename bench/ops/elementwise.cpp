#include <cmath>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

// Rows of a batch of tokens; with the widths below a call's data lie in the caches (64) or far outside them (4096).
constexpr int64_t kRows[] = {64, 4096};

std::string name_of(const std::string& op, int64_t R, int64_t C) {
    return op + "/" + std::to_string(R) + "x" + std::to_string(C);
}

Case element_wise(const std::string& op, int64_t R, int64_t C, double floats, double exps = 0) {
    Case c;
    c.name = name_of(op, R, C);
    c.work.bytes = 4.0 * floats * static_cast<double>(R * C);
    c.work.exps = exps * static_cast<double>(R * C);
    return c;
}

/// Compares y [R,C] with truth(r, c).
std::function<double(const Tensors&)> against(int64_t R, int64_t C, const std::string& y,
                                              std::function<double(const Tensors&, int64_t, int64_t)> truth) {
    return [=](const Tensors& t) {
        const View v = t[y];
        return worst_sample(R * C, [&](int64_t i) {
            return Compared{truth(t, i / C, i % C), v.at<float>(i / C)[i % C]};
        });
    };
}

double at(const Tensors& t, const char* name, int64_t r, int64_t c) {
    return t[name].at<float>(r)[c];
}

double mean_of(const Tensors& t, int64_t r, int64_t C, double centre, int power) {
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) sum += std::pow(at(t, "x", r, c) - centre, power);
    return sum / static_cast<double>(C);
}

Case rms(int64_t R, int64_t C) {
    Case c = element_wise("rms_norm", R, C, 2);
    c.op.fields = {input("x", {R, C}), input("weight", {C}), output("y", {R, C})};
    c.op.run = [](const Tensors& t, Context& context) {
        return rms_norm({.x = t["x"], .weight = t["weight"], .y = t["y"]}, context);
    };
    c.error = against(R, C, "y", [C](const Tensors& t, int64_t r, int64_t i) {
        return at(t, "x", r, i) / std::sqrt(mean_of(t, r, C, 0, 2) + 1e-5) * t["weight"].as<float>()[i];
    });
    return c;
}

Case rms_backward(int64_t R, int64_t C) {
    Case c = element_wise("rms_norm_backward", R, C, 3);
    c.op.fields = {input("x", {R, C}),   input("weight", {C}),  input("inv_rms", {R}, {.scale = 0.1, .shift = 1}),
                   input("d_y", {R, C}), output("d_x", {R, C}), in_out("d_weight", {C})};
    c.op.run = [](const Tensors& t, Context& context) {
        return rms_norm_backward({.x = t["x"],
                                  .weight = t["weight"],
                                  .inv_rms = t["inv_rms"],
                                  .d_y = t["d_y"],
                                  .d_x = t["d_x"],
                                  .d_weight = t["d_weight"]},
                                 context);
    };
    c.error = against(R, C, "d_x", [C](const Tensors& t, int64_t r, int64_t i) {
        const double inv_rms = t["inv_rms"].as<float>()[r];
        const float* weight = t["weight"].as<float>();
        double projection = 0;
        for (int64_t k = 0; k < C; ++k) projection += at(t, "d_y", r, k) * weight[k] * at(t, "x", r, k) * inv_rms;
        return inv_rms * (at(t, "d_y", r, i) * weight[i] - at(t, "x", r, i) * inv_rms * projection / C);
    });
    return c;
}

Case layer(int64_t R, int64_t C) {
    Case c = element_wise("layer_norm", R, C, 2);
    c.op.fields = {input("x", {R, C}), input("weight", {C}), input("bias", {C}), output("y", {R, C})};
    c.op.run = [](const Tensors& t, Context& context) {
        return layer_norm({.x = t["x"], .weight = t["weight"], .bias = t["bias"], .y = t["y"]}, context);
    };
    c.error = against(R, C, "y", [C](const Tensors& t, int64_t r, int64_t i) {
        const double mean = mean_of(t, r, C, 0, 1), variance = mean_of(t, r, C, mean, 2);
        const double n = (at(t, "x", r, i) - mean) / std::sqrt(variance + 1e-5);
        return n * t["weight"].as<float>()[i] + t["bias"].as<float>()[i];
    });
    return c;
}

Case silu_gate(int64_t R, int64_t F) {
    Case c = element_wise("swiglu", R, F, 3, 1);
    c.op.fields = {input("gate", {R, F}), input("up", {R, F}), output("y", {R, F})};
    c.op.run = [](const Tensors& t, Context& context) {
        return swiglu({.gate = t["gate"], .up = t["up"], .y = t["y"]}, context);
    };
    c.error = against(R, F, "y", [](const Tensors& t, int64_t r, int64_t i) {
        const double gate = at(t, "gate", r, i);
        return gate / (1 + std::exp(-gate)) * at(t, "up", r, i);
    });
    return c;
}

Case erf_gelu(int64_t R, int64_t F) {
    Case c = element_wise("gelu", R, F, 2, 1);
    c.op.fields = {input("x", {R, F}), output("y", {R, F})};
    c.op.run = [](const Tensors& t, Context& context) { return gelu({.x = t["x"], .y = t["y"]}, context); };
    c.error = against(R, F, "y", [](const Tensors& t, int64_t r, int64_t i) {
        const double x = at(t, "x", r, i);
        return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    });
    return c;
}

Case to_bf16(int64_t R, int64_t C) {
    Case c = element_wise("cast f32 to bf16", R, C, 1.5);
    c.op.fields = {input("x", {R, C}), output("y", {R, C}, DType::bf16)};
    c.op.run = [](const Tensors& t, Context& context) { return cast({.x = t["x"], .y = t["y"]}, context); };
    c.error = [=](const Tensors& t) {
        const std::vector<double> y = t.values("y");
        return worst_sample(R * C, [&](int64_t i) { return Compared{at(t, "x", i / C, i % C), y[i]}; });
    };
    c.tolerance = 0.01;
    return c;
}

Case turn(int64_t T, int64_t H, int64_t D, RopeLayout layout) {
    Case c;
    const bool halves = layout == RopeLayout::half_split;
    c.name = std::string("rope/") + (halves ? "halves " : "pairs ") + std::to_string(T) + " positions, " +
             std::to_string(H) + "x" + std::to_string(D);
    c.op.fields = {input("x", {1, T, H, D}), output("y", {1, T, H, D})};
    c.op.run = [layout](const Tensors& t, Context& context) {
        return rope({.x = t["x"], .y = t["y"], .layout = layout}, context);
    };
    c.work.bytes = 8.0 * static_cast<double>(T * H * D);
    c.error = [=](const Tensors& t) {
        return worst_sample(T * H * D, [&](int64_t i) {
            const float *x = t["x"].as<float>() + i / D * D, *y = t["y"].as<float>() + i / D * D;
            const int64_t k = i % D, pair = halves ? k % (D / 2) : k / 2;
            const int64_t first = halves ? pair : 2 * pair, second = halves ? pair + D / 2 : 2 * pair + 1;
            const double angle = static_cast<double>(i / (H * D)) * std::pow(10000.0, -2.0 * pair / D);
            const double a = x[first], b = x[second], cosine = std::cos(angle), sine = std::sin(angle);
            return Compared{k == first ? a * cosine - b * sine : b * cosine + a * sine, y[k]};
        });
    };
    return c;
}

Case optimiser(int64_t n) {
    Case c;
    c.name = "adamw/" + std::to_string(n);
    c.op.fields = {in_out("parameter", {n}), input("gradient", {n}), in_out("m", {n}, {.scale = 0.1}),
                   in_out("v", {n}, {.scale = 0, .shift = 0.5})};
    c.op.run = [](const Tensors& t, Context& context) {
        return adamw({.parameter = t["parameter"],
                      .gradient = t["gradient"],
                      .m = t["m"],
                      .v = t["v"],
                      .rate = 1e-3f,
                      .weight_decay = 0.1f,
                      .step = 10},
                     context);
    };
    c.work.bytes = 28.0 * static_cast<double>(n);  // four read, three written
    c.error = [=](const Tensors& t) {              // v after the first step is known from the gradient alone
        return worst_sample(n, [&](int64_t i) {
            const double g = t["gradient"].as<float>()[i];
            return Compared{0.5 * static_cast<double>(0.999f) + (1 - static_cast<double>(0.999f)) * g * g,
                            t["v"].as<float>()[i]};
        });
    };
    return c;
}

Case norm_of_all(int64_t n) {
    Case c;
    c.name = "global_norm/" + std::to_string(n);
    c.op.fields = {input("x", {n}), output("norm", {1})};
    c.op.run = [](const Tensors& t, Context& context) {
        return global_norm({.x = t["x"], .norm = t["norm"]}, context);
    };
    c.work.bytes = 4.0 * static_cast<double>(n);
    c.error = [=](const Tensors& t) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += std::pow(static_cast<double>(t["x"].as<float>()[i]), 2);
        return std::fabs(t["norm"].as<float>()[0] / std::sqrt(sum) - 1);
    };
    return c;
}

Case gather(int64_t R, int64_t V, int64_t C) {
    Case c = element_wise("embedding", R, C, 2);
    c.op.fields = {ids("ids", {R}, 0, V), input("table", {V, C}), output("y", {R, C})};
    c.op.run = [](const Tensors& t, Context& context) {
        return embedding({.ids = t["ids"], .table = t["table"], .y = t["y"]}, context);
    };
    c.error = against(
        R, C, "y", [](const Tensors& t, int64_t r, int64_t i) { return at(t, "table", t["ids"].as<int32_t>()[r], i); });
    return c;
}

Case scatter(int64_t R, int64_t V, int64_t C) {
    Case c = element_wise("embedding_backward", R, C, 3);
    c.op.fields = {ids("ids", {R}, 0, V), input("d_y", {R, C}), in_out("d_table", {V, C}, {.scale = 0})};
    c.op.run = [](const Tensors& t, Context& context) {
        return embedding_backward({.ids = t["ids"], .d_y = t["d_y"], .d_table = t["d_table"]}, context);
    };
    c.error = against(V, C, "d_table", [R](const Tensors& t, int64_t v, int64_t i) {
        double sum = 0;
        for (int64_t r = 0; r < R; ++r)
            if (t["ids"].as<int32_t>()[r] == v) sum += at(t, "d_y", r, i);
        return sum;
    });
    return c;
}

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const int64_t R : kRows) {
        for (const auto& make : {rms, rms_backward, layer, to_bf16}) list.push_back(make(R, 1024));
        list.push_back(silu_gate(R, 2816));
        list.push_back(erf_gelu(R, 3072));
        for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::adjacent_pairs})
            list.push_back(turn(R, 16, 64, layout));
    }
    list.push_back(turn(1, 32, 128, RopeLayout::half_split));
    for (const int64_t n : {int64_t{1} << 18, int64_t{1} << 24}) {
        list.push_back(optimiser(n));
        list.push_back(norm_of_all(n));
    }
    list.push_back(gather(4096, 32000, 1024));
    list.push_back(scatter(4096, 32000, 1024));
    return list;
}

const Registered registered(cases);

}  // namespace
