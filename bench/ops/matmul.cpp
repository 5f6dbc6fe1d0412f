#include <cmath>
#include <cstdio>
#include <cstring>

#include "ops/bench.h"

using namespace noema;
using namespace noema::test;
using namespace noema::bench;

namespace {

struct Shape {
    int64_t M, N, K;
};

// N: as it lies, T: transposed. NT is a linear layer, NN its input gradient, TN its weight gradient.
enum class Form { NT, NN, TN };

struct Options {
    Precision precision = Precision::f32;
    Form form = Form::NT;
    bool packed = true;
    Activation activation = Activation::none;
};

float bf16_of(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    u = (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000u;
    std::memcpy(&f, &u, 4);
    return f;
}

double entry(const View& v, int64_t i, int64_t j, Precision precision) {
    const float x = v.at<float>(i)[j];
    return precision == Precision::bf16 ? bf16_of(x) : x;
}

// Against exact sums of the operands as rounded: what is left is the order of additions.
double error_of(const Tensors& t, const Shape& s, const Options& o) {
    const View a = t["a"], b = t["b"], c = t["c"];
    return worst_sample(s.M * s.N, [&](int64_t i) {
        const int64_t m = i / s.N, n = i % s.N;
        double sum = 0;
        for (int64_t k = 0; k < s.K; ++k)
            sum += (o.form == Form::TN ? entry(a, k, m, o.precision) : entry(a, m, k, o.precision)) *
                   (o.form == Form::NT ? entry(b, n, k, o.precision) : entry(b, k, n, o.precision));
        if (o.activation == Activation::gelu_tanh)
            sum = 0.5 * sum * (1 + std::tanh(0.79788456080286536 * (sum + 0.044715 * sum * sum * sum)));
        return Compared{sum, c.at<float>(m)[n]};
    });
}

std::string name_of(const Shape& s, const Options& o) {
    const char* forms[] = {"NT", "NN", "TN"};
    char name[80];
    std::snprintf(name, sizeof name, "matmul/%s %s %lldx%lldx%lld%s%s", o.precision == Precision::bf16 ? "bf16" : "f32",
                  forms[static_cast<int>(o.form)], static_cast<long long>(s.M), static_cast<long long>(s.N),
                  static_cast<long long>(s.K), o.packed ? " packed" : "",
                  o.activation == Activation::none ? "" : " gelu");
    return name;
}

// Only weights of linear layers are ever packed.
Case product(const Shape& s, Options o) {
    if (o.form != Form::NT) o.packed = false;
    Case c;
    c.name = name_of(s, o);
    c.op.fields = {input("a", o.form == Form::TN ? std::vector{s.K, s.M} : std::vector{s.M, s.K}),
                   input("b", o.form == Form::NT ? std::vector{s.N, s.K} : std::vector{s.K, s.N}),
                   output("c", {s.M, s.N})};
    const auto packed = std::make_shared<std::shared_ptr<std::byte>>();
    c.prepare = [=](const Tensors& t, Context& context) {
        if (!o.packed) return Status{};
        *packed = memory_of(*context.backend, context.backend->packed_bytes(t["b"], o.precision, false));
        return matmul_pack({.weight = t["b"], .packed = packed->get(), .precision = o.precision}, context);
    };
    c.op.run = [=](const Tensors& t, Context& context) {
        return matmul({.a = t["a"],
                       .b = t["b"],
                       .c = t["c"],
                       .packed_b = packed->get(),
                       .precision = o.precision,
                       .activation = o.activation,
                       .transpose_a = o.form == Form::TN,
                       .transpose_b = o.form == Form::NT},
                      context);
    };
    const double weight = o.packed && o.precision == Precision::bf16 ? 2.0 : 4.0;
    c.work.flops = 2.0 * static_cast<double>(s.M) * static_cast<double>(s.N) * static_cast<double>(s.K);
    c.work.bytes = weight * static_cast<double>(s.N * s.K) + 4.0 * static_cast<double>(s.M * (s.K + s.N));
    c.work.exps = o.activation == Activation::none ? 0.0 : static_cast<double>(s.M * s.N);
    c.work.precision = o.precision;
    c.error = [=](const Tensors& t) { return error_of(t, s, o); };
    c.tolerance = 1e-4;
    return c;
}

std::vector<Case> cases() {
    std::vector<Case> list;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        // Square, a layer of a small and of a bigger model over a batch of tokens.
        for (const Shape s : {Shape{256, 256, 256}, {512, 512, 512}, {1024, 1024, 1024}, {1024, 3072, 768}})
            list.push_back(product(s, {.precision = precision}));
        list.push_back(product({1024, 3072, 768}, {.precision = precision, .activation = Activation::gelu_tanh}));
        list.push_back(product({1024, 1024, 1024}, {.precision = precision, .packed = false}));
        // Decoding: few rows.
        for (const int64_t width : {256, 512, 768, 1024, 2048, 4096})
            list.push_back(product({1, width, width}, {.precision = precision}));
        for (const int64_t M : {2, 4, 8, 16, 32, 64})
            list.push_back(product({M, 1024, 1024}, {.precision = precision}));
        for (const int64_t M : {16, 64}) list.push_back(product({M, 4096, 4096}, {.precision = precision}));
        // Training: input and weight gradients.
        for (const int64_t width : {256, 512, 1024}) {
            list.push_back(product({4096, width, width}, {.precision = precision, .packed = false}));
            list.push_back(product({4096, width, width}, {.precision = precision, .form = Form::NN}));
            list.push_back(product({width, width, 4096}, {.precision = precision, .form = Form::TN}));
        }
        list.push_back(product({1024, 1024, 8192}, {.precision = precision, .form = Form::TN}));
    }
    return list;
}

const Registered registered(cases);

}  // namespace
