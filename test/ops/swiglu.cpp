#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

OpCase forward(int64_t R, int64_t F, double scale = 2.0) {
    return {"swiglu " + std::to_string(R) + "x" + std::to_string(F),
            {input("gate", {R, F}, {.scale = scale}), input("up", {R, F}), output("y", {R, F})},
            [](const Tensors& t, Context& c) { return swiglu({.gate = t["gate"], .up = t["up"], .y = t["y"]}, c); }};
}

OpCase backward(int64_t R, int64_t F, double scale = 2.0) {
    return {"swiglu_backward " + std::to_string(R) + "x" + std::to_string(F),
            {input("gate", {R, F}, {.scale = scale}), input("up", {R, F}), input("d_y", {R, F}),
             output("d_gate", {R, F}), output("d_up", {R, F})},
            [](const Tensors& t, Context& c) {
                return swiglu_backward(
                    {.gate = t["gate"], .up = t["up"], .d_y = t["d_y"], .d_gate = t["d_gate"], .d_up = t["d_up"]}, c);
            }};
}

/// The op in place: y is the tensor called `name`.
OpCase in_place(const std::string& name) {
    OpCase c = forward(3, 37);
    c.title += " into " + name;
    c.fields.pop_back();
    for (Field& f : c.fields)
        if (f.name == name) f.role = Role::in_out;
    c.run = [name](const Tensors& t, Context& context) {
        return swiglu({.gate = t["gate"], .up = t["up"], .y = t[name]}, context);
    };
    return c;
}

double silu(double x) {
    return x / (1 + std::exp(-x));
}

}  // namespace

TEST_CASE("swiglu") {
    for (int64_t F : awkward_sizes(131)) check(forward(3, F));
    for (int64_t R : {0, 1, 65}) check(forward(R, 300));
    check(forward(2, 64, 60));    // exp overflows in one direction
    check(forward(2, 64, 1e30));  // and in every
    check(in_place("gate"));
    check(in_place("up"));
}

TEST_CASE("swiglu_backward") {
    for (int64_t F : awkward_sizes(131)) check(backward(3, F));
    check(backward(0, 8));
    check(backward(2, 64, 60));
    check(backward(2, 64, 1e30));
    OpCase c = backward(3, 37);
    c.fields = {input("gate", {3, 37}), input("up", {3, 37}), in_out("d_y", {3, 37}), output("d_up", {3, 37})};
    c.run = [](const Tensors& t, Context& context) {
        return swiglu_backward(
            {.gate = t["gate"], .up = t["up"], .d_y = t["d_y"], .d_gate = t["d_y"], .d_up = t["d_up"]}, context);
    };
    check(c);
    check_gradient({forward(3, 7), backward(3, 7), {{"y", "d_y"}}, {{"gate", "d_gate"}, {"up", "d_up"}}});
}

TEST_CASE("silu is right to 3 units in the last place, its slope to 4e-7") {
    std::vector<double> x;
    for (double v = -87; v <= 87; v += 0.0173) x.push_back(static_cast<float>(v));
    for (double v = 1e-30; v < 1; v *= 1.7) x.push_back(static_cast<float>(-v)), x.push_back(static_cast<float>(v));
    const int64_t n = static_cast<int64_t>(x.size());
    OpCase c = forward(1, n), b = backward(1, n);
    c.fields[0].fill.values = b.fields[0].fill.values = x;
    for (Field* f : {&c.fields[1], &b.fields[1], &b.fields[2]}) f->fill.values.assign(n, 1.0);
    const auto ulps = [&](const Tensors& t, const std::string& name) {
        const std::vector<double> y = t.values(name);
        double worst = 0;
        for (int64_t i = 0; i < n; ++i) worst = std::max(worst, std::fabs(y[i] / silu(x[i]) - 1) * 0x1p23);
        return worst;
    };
    c.judge = [&](const Tensors&, const Tensors& measured) -> std::string {
        const double worst = ulps(measured, "y");
        return worst <= 3 ? "" : std::to_string(worst) + " ulp";
    };
    b.judge = [&](const Tensors& truth, const Tensors& measured) -> std::string {
        const std::vector<double> d = measured.values("d_gate"), expected = truth.values("d_gate");
        double worst = 0;
        for (int64_t i = 0; i < n; ++i) worst = std::max(worst, std::fabs(d[i] - expected[i]));
        if (worst > 4e-7) return "slope off by " + std::to_string(worst * 1e7) + "e-7";
        const double sigmoid = ulps(measured, "d_up");
        return sigmoid <= 4 ? "" : "sigmoid: " + std::to_string(sigmoid) + " ulp";
    };
    check(c);
    check(b);
}

TEST_CASE("swiglu keeps NaN") {
    OpCase c = forward(1, 3);
    c.fields[0].fill.values = {NAN, 1, INFINITY};
    c.fields[1].fill.values = {1, NAN, 2};
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    ThreadTeam one(1);
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        REQUIRE(run_on(c, t, "cpu", one).ok());
        CHECK(std::isnan(t.values("y")[0]));
        CHECK(std::isnan(t.values("y")[1]));
        CHECK(t.values("y")[2] == INFINITY);
    }
}

TEST_CASE("swiglu refuses") {
    OpCase c = forward(2, 8);
    c.fields[1] = input("up", {2, 7});
    check_refused(c, Code::invalid_argument, "up has shape [2, 7], expected [2, 8]");
    c = backward(2, 8);
    c.run = [](const Tensors& t, Context& context) {
        return swiglu_backward(
            {.gate = t["gate"], .up = t["up"], .d_y = t["d_y"], .d_gate = t["d_up"], .d_up = t["d_up"]}, context);
    };
    check_refused(c, Code::invalid_argument, "d_up may not be d_gate");
}
