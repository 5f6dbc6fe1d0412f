#include "ops/mixture_cases.h"

using namespace noema;
using namespace noema::test;
using namespace noema::test::mixture;

namespace {

OpCase backward(const Shape& s) {
    return {"mixture_cdf_backward " + s.text(),
            {input("h", {s.R, s.c}, {.scale = s.h_scale}), parameters_field(s), input("d_u", {s.R, s.c}),
             input("d_log_density", {s.R}), input("d_log_det", {s.R}), output("d_h", {s.R, s.c}),
             output("d_parameters", {s.R, s.c, 3 * s.K})},
            [](const Tensors& t, Context& c) {
                return mixture_cdf_backward({.h = t["h"],
                                             .parameters = t["parameters"],
                                             .d_u = t["d_u"],
                                             .d_log_density = t["d_log_density"],
                                             .d_log_det = t["d_log_det"],
                                             .d_h = t["d_h"],
                                             .d_parameters = t["d_parameters"]},
                                            c);
            }};
}

}  // namespace

TEST_CASE("mixture_cdf") {
    for (int64_t K : kComponents) check(forward({5, 3, K}));
    for (int64_t c : {0, 1, 2, 16, 17, 33}) check(forward({3, c, 4}));
    for (int64_t R : {0, 1, 40, 300}) check(forward({R, 5, 2}));
    check(forward({9, 5, 8, 0.03}));
    check(forward({9, 5, 8, 5}));
    check(forward({9, 5, 8, 20}));
    for (const std::vector<std::string>& names : std::vector<std::vector<std::string>>{
             {"u"}, {"log_density"}, {"log_det"}, {"u", "log_det"}, {"u", "log_density", "log_det"}})
        check(without(forward({4, 5, 8}), names));
}

TEST_CASE("mixture_cdf far from every component") {
    for (double h_scale : {10.0, 100.0, 3000.0})
        for (int64_t K : {1, 2, 5, 9}) {
            OpCase c = forward({7, 1, K, 0.1, 1, h_scale});
            c.judge = [](const Tensors& truth, const Tensors& measured) -> std::string {
                for (const char* name : {"u", "log_density", "log_det"}) {
                    const std::vector<double> t = truth.values(name), m = measured.values(name);
                    for (size_t i = 0; i < t.size(); ++i)
                        if (!(std::fabs(m[i] - t[i]) <= 2e-6 * std::fabs(t[i]) + 2e-5))
                            return std::string(name) + " is " + std::to_string(m[i]) + ", not " + std::to_string(t[i]);
                }
                return "";
            };
            check(c);
        }
    // Between two components, 50 scales from both: the level is plain, the density e^-1250.
    OpCase c = forward({1, 1, 2});
    c.fields[0].fill.values = {0.03125};
    c.fields[1].fill.values = {0.5, -0.25, -2, 2, raw_of(0.04), raw_of(0.0402)};
    check(c);
}

TEST_CASE("mixture_cdf_backward") {
    for (int64_t K : kComponents) check(backward({5, 3, K}));
    for (int64_t c : {0, 1, 2, 16, 17, 33}) check(backward({3, c, 4}));
    for (int64_t R : {0, 1, 40, 300}) check(backward({R, 5, 2}));
    check(backward({9, 5, 8, 0.03}));
    check(backward({9, 5, 8, 5}));
    check(backward({6, 2, 5, 0.1, 1, 100}));
    check(backward({6, 2, 3, 0.1, 1, 1e4}));
    for (const std::vector<std::string>& names : std::vector<std::vector<std::string>>{
             {"d_u"}, {"d_log_density"}, {"d_log_det"}, {"d_u", "d_log_det"}, {"d_u", "d_log_density", "d_log_det"}})
        check(without(backward({4, 5, 8}), names));
    for (int64_t K : {1, 2, 5, 20}) {
        const Shape s{4, 3, K};
        check_gradient({forward(s),
                        backward(s),
                        {{"u", "d_u"}, {"log_density", "d_log_density"}, {"log_det", "d_log_det"}},
                        {{"h", "d_h"}, {"parameters", "d_parameters"}}});
    }
}

TEST_CASE("mixture_cdf_backward in place") {
    for (int64_t K : {2, 7, 64, 300}) {
        OpCase c = without(backward({5, 3, K}), {"d_parameters"});
        field(c, "parameters").role = Role::in_out;
        c.run = [](const Tensors& t, Context& context) {
            return mixture_cdf_backward({.h = t["h"],
                                         .parameters = t["parameters"],
                                         .d_u = t["d_u"],
                                         .d_log_density = t["d_log_density"],
                                         .d_log_det = t["d_log_det"],
                                         .d_h = t["d_h"],
                                         .d_parameters = t["parameters"]},
                                        context);
        };
        check(c);
    }
}

// One standard component: u is h, by way of P and its inverse.
TEST_CASE("mixture_cdf of one component gives h back, at all magnitudes") {
    std::vector<double> h;
    for (double x = -40; x <= 40; x += 0.00717) h.push_back(static_cast<float>(x));
    for (double x = 1e-30; x < 1; x *= 1.5) h.insert(h.end(), {static_cast<float>(x), static_cast<float>(-x)});
    for (double x = 40; x < 440; x *= 1.01) h.insert(h.end(), {static_cast<float>(x), static_cast<float>(-x)});
    h.insert(h.end(), {-1e3, 1e3, -1e5, 1e5, 1e15});
    const int64_t n = static_cast<int64_t>(h.size());
    OpCase c = forward({n, 1, 1});
    c.fields[0].fill.values = h;
    c.fields[1].fill.values.assign(3 * h.size(), 0.0);
    each_backend(c, [&](const Tensors& t, const std::string& who) {
        const std::vector<double> u = t.values("u"), density = t.values("log_density"), det = t.values("log_det");
        // 5 units in the last place; without fused multiply-add the tails, 33 units off, pass on half of that / |h|.
        const double ulp = (who == "portable" ? 8 : 5) * 0x1p-23;
        for (int64_t i = 0; i < n; ++i) {
            INFO(who, " at ", h[i]);
            // The quantile is fitted up to |u| = 775; beyond that it is off by 2e-6.
            const double size = std::fabs(h[i]), far = size > 775 ? 8 : 1;
            CHECK(std::fabs(u[i] - h[i]) <= far * ulp * std::max(1.0, size));
            const double log_density = -0.5 * h[i] * h[i] - 0.91893853320467274;
            CHECK(std::fabs(density[i] - log_density) <=
                  (who == "portable" ? 33 : 5) * 0x1p-23 * std::max(1.0, -log_density));
            CHECK(std::fabs(det[i]) <= far * (who == "portable" ? 33 : 5) * 0x1p-23);
        }
    });
}

TEST_CASE("mixture_cdf clips log-scales softly") {
    std::vector<double> raw;
    for (double x = -70; x <= 70; x += 0.0973) raw.push_back(static_cast<float>(x));
    const int64_t n = static_cast<int64_t>(raw.size());
    OpCase c = forward({n, 1, 1});
    c.fields[0].fill.values.assign(raw.size(), 0.0);
    c.fields[1].fill.values.clear();
    for (double x : raw) c.fields[1].fill.values.insert(c.fields[1].fill.values.end(), {0.0, 0.0, x});
    each_backend(c, [&](const Tensors& t, const std::string& who) {
        const std::vector<double> det = t.values("log_det");
        for (int64_t i = 0; i < n; ++i) {
            INFO(who, " at ", raw[i]);
            CHECK(std::fabs(det[i] + 4 * std::tanh(raw[i] / 4)) <= 1e-6);
        }
    });
}

TEST_CASE("mixture_cdf keeps NaN to its scalar") {
    for (int64_t K : {1, 3, 8, 40}) {
        const Shape s{3, 4, K};
        for (int64_t where : {int64_t{0}, K, 2 * K, 3 * K - 1}) {
            OpCase f = forward(s), b = backward(s);
            for (OpCase* c : {&f, &b}) field(*c, "parameters").fill.values[5 * 3 * K + where] = NAN;
            const OpCase clean = forward(s);
            each_backend(f, [&](const Tensors& t, const std::string& who) {
                INFO(who, " K ", K, " at ", where);
                const std::vector<double> u = t.values("u");
                for (int64_t i = 0; i < 12; ++i) CHECK(std::isnan(u[i]) == (i == 5));
                CHECK(std::isnan(t.values("log_density")[1]));
                CHECK(std::isnan(t.values("log_det")[1]));
                CHECK(std::isfinite(t.values("log_det")[2]));
            });
            each_backend(b, [&](const Tensors& t, const std::string& who) {
                INFO(who, " K ", K, " at ", where);
                const std::vector<double> d_h = t.values("d_h");
                for (int64_t i = 0; i < 12; ++i) CHECK(std::isnan(d_h[i]) == (i == 5));
            });
        }
    }
}

TEST_CASE("mixture_cdf refuses") {
    OpCase c = forward({2, 3, 4});
    c.fields[1] = input("parameters", {2, 3, 11});
    check_refused(c, Code::invalid_argument, "parameters must hold 3 K numbers per scalar");
    c.fields[1] = input("parameters", {2, 2, 12});
    check_refused(c, Code::invalid_argument, "parameters has shape [2, 2, 12], expected [2, 3, 12]");
    c = backward({2, 3, 4});
    field(c, "d_log_det") = input("d_log_det", {3});
    check_refused(c, Code::invalid_argument, "d_log_det has shape [3], expected [2]");
}
