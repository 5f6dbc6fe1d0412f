#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr Activation kForms[] = {Activation::gelu_erf, Activation::gelu_tanh};

std::string form_name(Activation form) {
    return form == Activation::gelu_erf ? "erf" : "tanh";
}

OpCase forward(int64_t R, int64_t F, Activation form, double scale = 2.0) {
    return {"gelu " + form_name(form) + " " + std::to_string(R) + "x" + std::to_string(F),
            {input("x", {R, F}, {.scale = scale}), output("y", {R, F})},
            [form](const Tensors& t, Context& c) { return gelu({.x = t["x"], .y = t["y"], .form = form}, c); }};
}

OpCase backward(int64_t R, int64_t F, Activation form, double scale = 2.0) {
    return {"gelu_backward " + form_name(form) + " " + std::to_string(R) + "x" + std::to_string(F),
            {input("x", {R, F}, {.scale = scale}), input("d_y", {R, F}), output("d_x", {R, F})},
            [form](const Tensors& t, Context& c) {
                return gelu_backward({.x = t["x"], .d_y = t["d_y"], .d_x = t["d_x"], .form = form}, c);
            }};
}

std::vector<double> all_magnitudes(double limit) {
    std::vector<double> x;
    for (double v = -limit; v <= limit; v += 0.00317) x.push_back(static_cast<float>(v));
    for (double v = 1e-30; v < 1; v *= 1.3) {
        x.push_back(static_cast<float>(-v));
        x.push_back(static_cast<float>(v));
    }
    return x;
}

double exact(double x, Activation form) {
    if (form == Activation::gelu_erf) return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    return x / (1 + std::exp(-2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/// Relative errors in units of 2^-23; `allowed` says how many at x.
void check_ulps(Activation form, double limit, double (*allowed)(double x)) {
    const std::vector<double> x = all_magnitudes(limit);
    const int64_t n = static_cast<int64_t>(x.size());
    OpCase c = forward(1, n, form);
    c.fields[0].fill.values = x;
    const auto judge = [&](const Tensors& t, const std::string& who) {
        const std::vector<double> y = t.values("y");
        double worst = 0, where = 0;
        for (int64_t i = 0; i < n; ++i) {
            const double ulps = std::fabs(y[i] / exact(x[i], form) - 1) * 0x1p23 / allowed(x[i]);
            if (!(ulps <= worst)) worst = ulps, where = x[i];
        }
        CHECK_MESSAGE(worst <= 1, who, " ", form_name(form), ": ", worst * allowed(where), " ulp at ", where);
    };
    ThreadTeam one(1);
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        if (isa == "portable") continue;  // no fused multiply-add
        EachIsa::use(isa);
        const Tensors t = make_tensors(c.fields, c.title, false, false);
        REQUIRE(run_on(c, t, "cpu", one).ok());
        judge(t, isa);
    }
    for (const std::string& device : devices()) {
        Tensors t = make_tensors(c.fields, c.title, false, false);
        REQUIRE(run_on_device(c, t, device_engine(device)).ok());
        judge(t, device);
    }
}

}  // namespace

TEST_CASE("gelu") {
    for (const Activation form : kForms) {
        for (int64_t F : awkward_sizes(65)) check(forward(3, F, form));
        check(forward(0, 8, form));
        check(forward(130, 200, form));
        check(forward(2, 64, form, 1e30));
        OpCase c = forward(3, 21, form);
        c.fields = {in_out("x", {3, 21})};
        c.run = [form](const Tensors& t, Context& context) {
            return gelu({.x = t["x"], .y = t["x"], .form = form}, context);
        };
        check(c);
    }
}

TEST_CASE("gelu_backward") {
    for (const Activation form : kForms) {
        for (int64_t F : awkward_sizes(65)) check(backward(3, F, form));
        check(backward(2, 64, form, 8));
        // The derivative far out is 0 or 1; the naive loop's x² may overflow there, so only 1e12.
        check(backward(2, 64, form, 1e12));
        check_gradient({forward(3, 7, form), backward(3, 7, form), {{"y", "d_y"}}, {{"x", "d_x"}}});
        OpCase c = backward(3, 21, form);
        c.fields = {input("x", {3, 21}), in_out("d_y", {3, 21})};
        c.run = [form](const Tensors& t, Context& context) {
            return gelu_backward({.x = t["x"], .d_y = t["d_y"], .d_x = t["d_y"], .form = form}, context);
        };
        check(c);
    }
}

TEST_CASE("gelu is right to a few units in the last place, in the tail too") {
    check_ulps(Activation::gelu_erf, 13, [](double) { return 6.0; });
    check_ulps(Activation::gelu_tanh, 9.9, [](double x) {
        return x > 0 ? 4.0 : 4.0 - 2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    });
}

TEST_CASE("gelu's slope is right to 4e-7") {
    for (const Activation form : kForms) {
        const std::vector<double> x = all_magnitudes(30);
        const int64_t n = static_cast<int64_t>(x.size());
        OpCase c = backward(1, n, form);
        c.fields[0].fill.values = x;
        c.fields[1].fill.values.assign(n, 1.0);
        c.judge = [n](const Tensors& truth, const Tensors& measured) -> std::string {
            const std::vector<double> d = measured.values("d_x"), expected = truth.values("d_x");
            double worst = 0;
            for (int64_t i = 0; i < n; ++i) worst = std::max(worst, std::fabs(d[i] - expected[i]));
            return worst <= 4e-7 ? "" : "off by " + std::to_string(worst * 1e7) + "e-7";
        };
        check(c);
    }
}

TEST_CASE("gelu keeps NaN") {
    for (const Activation form : kForms) {
        OpCase c = forward(1, 3, form), b = backward(1, 3, form);
        c.fields[0].fill.values = b.fields[0].fill.values = {NAN, 1, INFINITY};
        b.fields[1].fill.values = {1, 1, 1};
        ThreadTeam one(1);
        EachIsa isas;
        for (const std::string& isa : isas.names) {
            EachIsa::use(isa);
            const Tensors t = make_tensors(c.fields, c.title, false, false);
            REQUIRE(run_on(c, t, "cpu", one).ok());
            CHECK(std::isnan(t.values("y")[0]));
            CHECK(t.values("y")[2] == INFINITY);
            const Tensors d = make_tensors(b.fields, b.title, false, false);
            REQUIRE(run_on(b, d, "cpu", one).ok());
            CHECK(std::isnan(d.values("d_x")[0]));
            CHECK(d.values("d_x")[2] == 1);
        }
    }
}

TEST_CASE("gelu refuses") {
    check_refused(forward(2, 8, Activation::none), Code::invalid_argument, "form must be gelu_erf or gelu_tanh");
    OpCase c = backward(2, 8, Activation::gelu_erf);
    c.fields[1] = input("d_y", {2, 7});
    check_refused(c, Code::invalid_argument, "d_y has shape [2, 7], expected [2, 8]");
}
