// That a window saves work: keys and queries of blocks that it hides hold NaN, which would come through even with a weight of
// 0, had they been multiplied.
#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t T = 600, D = 16, kWindow = 64;
/// Rows of the largest tiles of queries and keys, and the window between them.
constexpr int64_t kReach = 128 + kWindow + 128;

AttentionMask mask() {
    return {.window = kWindow, .causal = true};
}

OpCase forward(Precision precision) {
    return {"attention window",
            {input("q", {1, T, 1, D}), input("k", {1, T, 1, D}), input("v", {1, T, 1, D}), output("out", {1, T, 1, D})},
            [=](const Tensors& t, Context& c) {
                return attention({.q = t["q"],
                                  .k = t["k"],
                                  .v = t["v"],
                                  .out = t["out"],
                                  .mask = mask(),
                                  .scale = 0.25f,
                                  .precision = precision},
                                 c);
            }};
}

OpCase backward(Precision precision) {
    OpCase c = forward(precision);
    c.fields.back() = input("out", {1, T, 1, D});
    c.fields.push_back(input("lse", {1, 1, T}, {.shift = 4}));
    c.fields.push_back(input("d_out", {1, T, 1, D}));
    for (const char* name : {"d_q", "d_k", "d_v"}) c.fields.push_back(output(name, {1, T, 1, D}));
    c.run = [=](const Tensors& t, Context& c) {
        return attention_backward({.q = t["q"],
                                   .k = t["k"],
                                   .v = t["v"],
                                   .out = t["out"],
                                   .lse = t["lse"],
                                   .d_out = t["d_out"],
                                   .d_q = t["d_q"],
                                   .d_k = t["d_k"],
                                   .d_v = t["d_v"],
                                   .mask = mask(),
                                   .scale = 0.25f,
                                   .precision = precision},
                                  c);
    };
    return c;
}

/// The case with rows [first, last) of two of its inputs spoilt.
OpCase spoilt(OpCase c, const std::string& one, const std::string& two, int64_t first, int64_t last) {
    const Tensors clean = make_tensors(c.fields, c.title, false, false);
    for (Field& f : c.fields) {
        if (f.name != one && f.name != two) continue;
        f.fill.values = clean.values(f.name);
        std::fill(f.fill.values.begin() + first * D, f.fill.values.begin() + last * D, NAN);
    }
    return c;
}

void check_finite(const OpCase& c, const std::string& backend, const std::vector<std::string>& names, int64_t first,
                  int64_t last) {
    static ThreadTeam two(2);
    Tensors t = make_tensors(c.fields, c.title, false, false);
    const Status status = backend == "cpu" ? run_on(c, t, "cpu", two) : run_on_device(c, t, device_engine(backend));
    REQUIRE_MESSAGE(status.ok(), status.text);
    for (const std::string& name : names) {
        const std::vector<double> values = t.values(name);
        int64_t lost = 0;
        for (int64_t i = first * D; i < last * D; ++i) lost += !std::isfinite(values[static_cast<size_t>(i)]);
        CHECK_MESSAGE(lost == 0, name, " of ", backend, " has ", lost, " values that hidden rows reached");
    }
}

void check_hidden_blocks(const std::string& backend) {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const int64_t early = 100, late = T - 100;
        check_finite(spoilt(forward(precision), "k", "v", 0, early), backend, {"out"}, early + kReach, T);
        const OpCase b = backward(precision);
        check_finite(spoilt(b, "k", "v", 0, early), backend, {"d_q"}, early + kReach, T);
        check_finite(spoilt(b, "q", "d_out", late, T), backend, {"d_k", "d_v"}, 0, late - kReach);
    }
}

}  // namespace

TEST_CASE("attention: blocks that a window hides are not multiplied") {
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        INFO("instruction set ", isa);
        check_hidden_blocks("cpu");
    }
    for (const std::string& device : devices()) check_hidden_blocks(device);
}
