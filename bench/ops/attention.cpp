#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

/// Queries, keys and values are slices of one [B, T, (H + 2 Hkv) D], as a layer's fused projection leaves them, unless
/// Tq differs from Tk.
struct Shape {
    int64_t B, H, Hkv, Tq, Tk, D;
    bool causal = false;
    int64_t window = 0;
    Precision precision = Precision::f32;

    bool fused() const { return Tq == Tk; }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
    /// The last query stands at the last key.
    int64_t offset() const { return Tk - Tq; }
    int64_t first_key(int64_t i) const { return window ? std::max<int64_t>(0, offset() + i - window + 1) : 0; }
    int64_t end_key(int64_t i) const { return causal ? offset() + i + 1 : Tk; }
    /// Visible (query, key) pairs of all heads.
    double pairs() const {
        double n = 0;
        for (int64_t i = 0; i < Tq; ++i) n += static_cast<double>(end_key(i) - first_key(i));
        return n * static_cast<double>(B * H);
    }
};

std::string name_of(const char* op, const Shape& s) {
    std::string name = std::string(op) + (s.precision == Precision::bf16 ? "/bf16 B" : "/f32 B") + std::to_string(s.B);
    name.append(" H").append(std::to_string(s.H));
    if (s.Hkv != s.H) name.append(":").append(std::to_string(s.Hkv));
    name.append(" T").append(std::to_string(s.Tq));
    if (!s.fused()) name.append(":").append(std::to_string(s.Tk));
    name.append(" D").append(std::to_string(s.D));
    if (s.window) return name.append(" window ").append(std::to_string(s.window));
    return s.causal ? name.append(" causal") : name;
}

View heads(const Shape& s, const View& all, int64_t first, int64_t count) {
    View v = view(all.as<float>() + first * s.D, DType::f32, s.B, s.Tq, count, s.D);
    v.device = all.device;
    v.stride[0] = all.stride[0];
    v.stride[1] = all.stride[1];
    return v;
}

struct Sources {
    View q, k, v;
};

Sources sources(const Shape& s, const Tensors& t, const char* prefix = "") {
    const std::string p = prefix;
    if (!s.fused()) return {t[p + "q"], t[p + "k"], t[p + "v"]};
    const View all = t[p + "qkv"];
    return {heads(s, all, 0, s.H), heads(s, all, s.H, s.Hkv), heads(s, all, s.H + s.Hkv, s.Hkv)};
}

std::vector<Field> fields_of(const Shape& s) {
    std::vector<Field> fields;
    if (s.fused())
        fields = {input("qkv", {s.B, s.Tq, (s.H + 2 * s.Hkv) * s.D})};
    else
        fields = {input("q", {s.B, s.Tq, s.H, s.D}), input("k", {s.B, s.Tk, s.Hkv, s.D}),
                  input("v", {s.B, s.Tk, s.Hkv, s.D})};
    fields.push_back(output("out", {s.B, s.Tq, s.H, s.D}));
    fields.push_back(output("lse", {s.B, s.H, s.Tq}));
    return fields;
}

AttentionMask mask_of(const Shape& s) {
    return {.query_offset = s.causal ? s.offset() : 0, .window = s.window, .causal = s.causal};
}

Status run_forward(const Shape& s, const Tensors& t, Context& context) {
    const Sources x = sources(s, t);
    return attention({.q = x.q,
                      .k = x.k,
                      .v = x.v,
                      .out = t["out"],
                      .lse = t["lse"],
                      .mask = mask_of(s),
                      .scale = s.scale(),
                      .precision = s.precision},
                     context);
}

Status run_backward(const Shape& s, const Tensors& t, Context& context) {
    const Sources x = sources(s, t), d = sources(s, t, "d_");
    return attention_backward({.q = x.q,
                               .k = x.k,
                               .v = x.v,
                               .out = t["out"],
                               .lse = t["lse"],
                               .d_out = t["d_out"],
                               .d_q = d.q,
                               .d_k = d.k,
                               .d_v = d.v,
                               .mask = mask_of(s),
                               .scale = s.scale(),
                               .precision = s.precision},
                              context);
}

/// Position of one element of [B, Tq, H, D].
struct At {
    int64_t b, i, h, c;
    At(const Shape& s, int64_t index)
        : b(index / s.D / s.H / s.Tq), i(index / s.D / s.H % s.Tq), h(index / s.D % s.H), c(index % s.D) {}
};

double dot(const float* x, const float* y, int64_t D) {
    double sum = 0;
    for (int64_t c = 0; c < D; ++c) sum += static_cast<double>(x[c]) * y[c];
    return sum;
}

/// Probabilities of the keys from first_key(i) on.
std::vector<double> probabilities(const Shape& s, const Sources& x, const At& at) {
    const int64_t g = at.h / (s.H / s.Hkv), first = s.first_key(at.i), end = s.end_key(at.i);
    std::vector<double> p;
    for (int64_t j = first; j < end; ++j)
        p.push_back(s.scale() * dot(x.q.at<float>(at.b, at.i, at.h), x.k.at<float>(at.b, j, g), s.D));
    const double most = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& value : p) total += value = std::exp(value - most);
    for (double& value : p) value /= total;
    return p;
}

Compared compare_out(const Shape& s, const Tensors& t, int64_t index) {
    const Sources x = sources(s, t);
    const At at(s, index);
    const std::vector<double> p = probabilities(s, x, at);
    double sum = 0;
    for (size_t j = 0; j < p.size(); ++j)
        sum += p[j] * x.v.at<float>(at.b, s.first_key(at.i) + static_cast<int64_t>(j), at.h / (s.H / s.Hkv))[at.c];
    return {sum, t["out"].at<float>(at.b, at.i, at.h)[at.c]};
}

Compared compare_d_q(const Shape& s, const Tensors& t, int64_t index) {
    const Sources x = sources(s, t), d = sources(s, t, "d_");
    const At at(s, index);
    const int64_t g = at.h / (s.H / s.Hkv), first = s.first_key(at.i);
    const float* d_out = t["d_out"].at<float>(at.b, at.i, at.h);
    const std::vector<double> p = probabilities(s, x, at);
    std::vector<double> slope;
    double mean = 0;
    for (size_t j = 0; j < p.size(); ++j) {
        slope.push_back(dot(d_out, x.v.at<float>(at.b, first + static_cast<int64_t>(j), g), s.D));
        mean += p[j] * slope[j];
    }
    double sum = 0;
    for (size_t j = 0; j < p.size(); ++j)
        sum += s.scale() * p[j] * (slope[j] - mean) * x.k.at<float>(at.b, first + static_cast<int64_t>(j), g)[at.c];
    return {sum, d.q.at<float>(at.b, at.i, at.h)[at.c]};
}

Case forward(const Shape& s) {
    Case c;
    c.name = name_of("attention", s);
    c.op = {"", fields_of(s), [s](const Tensors& t, Context& context) { return run_forward(s, t, context); }};
    const double rows = 2.0 * static_cast<double>(s.H * s.Tq) + 2.0 * static_cast<double>(s.Hkv * s.Tk);
    c.work = {.flops = 4 * static_cast<double>(s.D) * s.pairs(),
              .bytes = 4 * rows * static_cast<double>(s.B * s.D),
              .exps = s.pairs(),
              .precision = s.precision};
    c.error = [s](const Tensors& t) {
        return worst_sample(t["out"].size(), [&](int64_t i) { return compare_out(s, t, i); });
    };
    c.tolerance = s.precision == Precision::bf16 ? 0.05 : 1e-4;  // roundings of 2^-9 in scores and weights
    return c;
}

// Only d_q is compared; tests judge the other two.
Case backward(const Shape& s) {
    Case c = forward(s);
    c.name = name_of("attention_backward", s);
    c.op.fields.push_back(input("d_out", {s.B, s.Tq, s.H, s.D}));
    for (Field f : fields_of(s)) {
        if (f.role == Role::output) continue;
        f.name = "d_" + f.name;
        f.role = Role::output;
        c.op.fields.push_back(f);
    }
    c.prepare = [s](const Tensors& t, Context& context) { return run_forward(s, t, context); };
    c.op.run = [s](const Tensors& t, Context& context) { return run_backward(s, t, context); };
    c.work.flops *= 2.5;
    c.work.bytes *= 2;
    c.error = [s](const Tensors& t) {
        return worst_sample(t["out"].size(), [&](int64_t i) { return compare_d_q(s, t, i); });
    };
    return c;
}

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const auto both = [&](Shape s) {
            s.precision = precision;
            list.push_back(forward(s));
            list.push_back(backward(s));
        };
        both({.B = 16, .H = 12, .Hkv = 12, .Tq = 1024, .Tk = 1024, .D = 64});
        both({.B = 1, .H = 32, .Hkv = 32, .Tq = 1024, .Tk = 1024, .D = 128});
        both({.B = 64, .H = 12, .Hkv = 12, .Tq = 256, .Tk = 256, .D = 64});
        both({.B = 8, .H = 8, .Hkv = 8, .Tq = 256, .Tk = 256, .D = 32});
        both({.B = 32, .H = 8, .Hkv = 8, .Tq = 256, .Tk = 256, .D = 48});
        both({.B = 1, .H = 32, .Hkv = 8, .Tq = 512, .Tk = 512, .D = 128});
        both({.B = 8, .H = 8, .Hkv = 8, .Tq = 1024, .Tk = 1024, .D = 64, .causal = true});
        both({.B = 8, .H = 8, .Hkv = 8, .Tq = 1024, .Tk = 1024, .D = 64, .causal = true, .window = 256});
        // Decoding: a block of 32 new positions, and one, against a cache.
        for (const int64_t Tq : {32, 1}) {
            Shape s{.B = 1, .H = 32, .Hkv = 8, .Tq = Tq, .Tk = 2048, .D = 128, .causal = Tq == 1};
            s.precision = precision;
            list.push_back(forward(s));
        }
    }
    return list;
}

const Registered registered(cases);

}  // namespace
