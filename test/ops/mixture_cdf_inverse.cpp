#include "ops/mixture_cases.h"

using namespace noema;
using namespace noema::test;
using namespace noema::test::mixture;

namespace {

/// What the reference makes of values h: u and log du/dh of every scalar.
struct Truth {
    std::vector<double> u, log_slope;
};
Truth reference_at(const std::vector<double>& h, const std::vector<double>& parameters) {
    const int64_t n = static_cast<int64_t>(h.size()), width = static_cast<int64_t>(parameters.size()) / n;
    const auto real = [](const char* name, std::vector<int64_t> shape, const std::vector<double>& values) {
        Field f = input(name, std::move(shape), {}, DType::f64);
        f.fill.values = values;
        return f;
    };
    OpCase c = forward({1, 1, 1});
    c.fields = {real("h", {n, 1}, h), real("parameters", {n, 1, width}, parameters), output("u", {n, 1}),
                output("log_det", {n})};
    const Tensors t = make_tensors(c.fields, c.title, true, false);
    ThreadTeam one(1);
    REQUIRE(run_on(c, t, "reference", one).ok());
    return {t.values("u"), t.values("log_det")};
}

OpCase inverse(const Shape& s, double u_scale = 1) {
    OpCase c{"mixture_cdf_inverse " + s.text(),
             {input("u", {s.R, s.c}, {.scale = u_scale}), parameters_field(s), output("h", {s.R, s.c}),
              output("failed", {s.R}, DType::i32), output("evaluations", {s.R}, DType::i32)},
             [](const Tensors& t, Context& c) {
                 return mixture_cdf_inverse({.u = t["u"],
                                             .parameters = t["parameters"],
                                             .h = t["h"],
                                             .failed = t["failed"],
                                             .evaluations = t["evaluations"]},
                                            c);
             }};
    // |u(h) - u| is what counts, up to what rounding h makes of it.
    c.judge = [](const Tensors& truth, const Tensors& measured) -> std::string {
        const std::vector<double> h = measured.values("h"), u = truth.values("u");
        if (h.empty()) return "";
        const Truth at = reference_at(h, measured.values("parameters"));
        for (size_t i = 0; i < h.size(); ++i) {
            const double rounding = std::exp(at.log_slope[i]) * std::fabs(h[i]) * 0x1p-22;
            const double error = std::fabs(at.u[i] - u[i]);
            if (!(error <= 2e-6 + 1e-6 * std::fabs(u[i]) + rounding))
                return "residual " + std::to_string(error * 1e6) + "e-6 at u " + std::to_string(u[i]) + ", h " +
                       std::to_string(h[i]) + ", rounding " + std::to_string(rounding * 1e6) + "e-6";
        }
        for (const double failed : measured.values("failed"))
            if (failed != 0) return "a scalar failed";
        return "";
    };
    return c;
}

OpCase draw(const Shape& s) {
    OpCase c{"mixture_cdf_draw " + s.text(),
             {input("uniform", {s.R, s.c}), input("normal", {s.R, s.c}), parameters_field(s), output("h", {s.R, s.c})},
             [](const Tensors& t, Context& c) {
                 return mixture_cdf_draw(
                     {.uniform = t["uniform"], .normal = t["normal"], .parameters = t["parameters"], .h = t["h"]}, c);
             }};
    for (int64_t i = 0; i < s.R * s.c; ++i)
        c.fields[0].fill.values.push_back(0.5 *
                                          std::erfc(normal_of(static_cast<uint64_t>(7777777 + i)) * std::sqrt(0.5)));
    return c;
}

}  // namespace

TEST_CASE("mixture_cdf_inverse") {
    for (int64_t K : kComponents) check(inverse({5, 3, K}));
    for (int64_t c : {0, 1, 2, 17}) check(inverse({3, c, 4}));
    for (int64_t R : {0, 1, 40}) check(inverse({R, 5, 2}));
    for (double sigma : {0.02, 0.1, 5.0, 40.0})
        for (double spread : {0.0, 1.0, 1e3}) check(inverse({9, 5, 8, sigma, spread}));
    check(inverse({9, 5, 3, 0.1}, 5));
    check(inverse({9, 5, 3, 0.1}, 30));
    check(inverse({9, 5, 20, 0.5}, 200));
    for (const std::vector<std::string>& names :
         std::vector<std::vector<std::string>>{{"evaluations"}, {"evaluations", "failed"}}) {
        OpCase c = without(inverse({4, 5, 8}), names);
        c.judge = {};
        c.allowance = 1e-5;
        check(c);
    }
    OpCase c = without(inverse({4, 5, 8}), {"h"});
    field(c, "u").role = Role::in_out;
    c.run = [](const Tensors& t, Context& context) {
        return mixture_cdf_inverse({.u = t["u"],
                                    .parameters = t["parameters"],
                                    .h = t["u"],
                                    .failed = t["failed"],
                                    .evaluations = t["evaluations"]},
                                   context);
    };
    c.judge = [](const Tensors& truth, const Tensors& measured) -> std::string {
        const std::vector<double> a = truth.values("u"), b = measured.values("u");
        for (size_t i = 0; i < a.size(); ++i)
            if (!(std::fabs(a[i] - b[i]) <= 1e-5)) return "is not what the reference finds";
        return "";
    };
    check(c);
}

TEST_CASE("mixture_cdf_inverse undoes mixture_cdf") {
    for (const Shape& s : {Shape{6, 5, 2, 0.3}, Shape{6, 5, 8, 0.1}, Shape{6, 5, 64, 0.3}}) {
        each_backend(forward(s), [&](const Tensors& t, const std::string& who) {
            OpCase back = inverse(s);
            field(back, "u").fill.values = t.values("u");
            const std::vector<double> u = t.values("u");
            each_backend(back, [&](const Tensors& b, const std::string& whose) {
                const Truth again = reference_at(b.values("h"), b.values("parameters"));
                const std::vector<double> h = b.values("h");
                for (size_t i = 0; i < u.size(); ++i) {
                    INFO(who, " then ", whose, " ", s.text(), " at ", u[i]);
                    const double rounding = std::exp(again.log_slope[i]) * std::fabs(h[i]) * 0x1p-22;
                    CHECK(std::fabs(again.u[i] - u[i]) <= 2e-6 + 1e-6 * std::fabs(u[i]) + rounding);
                }
            });
        });
    }
}

TEST_CASE("mixture_cdf_inverse takes few evaluations") {
    double sum = 0;
    int cases = 0;
    for (int64_t K : {8, 32, 64})
        for (double sigma : {0.03, 0.1, 0.3, 0.5}) {
            const Shape s{40, 5, K, sigma};
            each_backend(inverse(s), [&](const Tensors& t, const std::string& who) {
                double evaluations = 0;
                for (const double n : t.values("evaluations")) evaluations += n / 200;
                CHECK_MESSAGE(evaluations <= 3.5, who, " ", s.text(), ": ", evaluations);
                sum += evaluations;
                ++cases;
            });
        }
    CHECK_MESSAGE(sum / cases <= 3.1, "on average ", sum / cases);
}

TEST_CASE("mixture_cdf_inverse says what it could not find") {
    for (int64_t K : {1, 5, 40})
        for (double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY)})
            for (int64_t where : {int64_t{-1}, int64_t{0}, K, 3 * K - 1}) {
                OpCase c = inverse({4, 3, K});
                if (where < 0)
                    field(c, "u").fill.values = {0, 1, 2, 0, bad, -1, 0, 1, 2, bad, 0, bad};
                else
                    for (int64_t scalar : {4, 9, 11}) field(c, "parameters").fill.values[scalar * 3 * K + where] = bad;
                each_backend(c, [&](const Tensors& t, const std::string& who) {
                    INFO(who, " K ", K, " ", bad, " at ", where);
                    CHECK(t.values("failed") == std::vector<double>{0, 1, 0, 2});
                    CHECK(std::isfinite(t.values("h")[3]));
                });
            }
    // 3e38 scales of 5 are beyond f32, for some component or for all.
    OpCase far = inverse({2, 1, 2, 5});
    field(far, "u").fill.values = {3e38, -3e38};
    field(far, "parameters").fill.values = {0, 0, 0, 0, raw_of(0.5), raw_of(5), 0, 0, 0, 0, raw_of(5), raw_of(5)};
    each_backend(far, [](const Tensors& t, const std::string& who) {
        INFO(who);
        CHECK(t.values("failed") == std::vector<double>{1, 1});
    });
    // Wild but finite: an answer, or a report.
    OpCase wild = inverse({8, 2, 3});
    for (double& x : field(wild, "parameters").fill.values) x = static_cast<float>(x * 1e37);
    each_backend(wild, [](const Tensors& t, const std::string& who) {
        INFO(who);
        for (const double n : t.values("evaluations")) CHECK(n <= 2 * 128);
        for (size_t i = 0; i < 16; ++i)
            if (!std::isfinite(t.values("h")[i])) CHECK(t.values("failed")[i / 2] > 0);
    });
}

TEST_CASE("mixture_cdf_draw") {
    for (int64_t K : kComponents) check(draw({5, 3, K}));
    for (int64_t c : {0, 1, 17}) check(draw({3, c, 4}));
    for (int64_t R : {0, 1, 40}) check(draw({R, 5, 2}));
    OpCase c = without(draw({4, 5, 8}), {"h"});
    field(c, "normal").role = Role::in_out;
    c.run = [](const Tensors& t, Context& context) {
        return mixture_cdf_draw(
            {.uniform = t["uniform"], .normal = t["normal"], .parameters = t["parameters"], .h = t["normal"]}, context);
    };
    check(c);
}

TEST_CASE("mixture_cdf_draw takes components as often as they weigh") {
    // Means far apart tell the components; -1e4 is a logit that never comes up, the ends of (0, 1) included.
    const std::vector<double> logits = {-1e4, 0, 1, -1, 2, -1e4};
    const int64_t n = 4000, K = 6;
    OpCase c = draw({n, 1, K});
    std::vector<double>&p = c.fields[2].fill.values, &uniform = c.fields[0].fill.values;
    p.clear();
    uniform = {0x1p-24, 1 - 0x1p-24};
    for (int64_t i = 0; i < n; ++i) {
        if (i >= 2) uniform.push_back((static_cast<double>(i) - 1.5) / static_cast<double>(n - 2));
        p.insert(p.end(), logits.begin(), logits.end());
        for (int64_t k = 0; k < K; ++k) p.push_back(100 * static_cast<double>(k));
        p.insert(p.end(), static_cast<size_t>(K), 0.0);
    }
    double total = 0;
    for (const double l : logits) total += std::exp(l);
    each_backend(c, [&](const Tensors& t, const std::string& who) {
        INFO(who);
        std::vector<double> times(K, 0.0);
        for (const double h : t.values("h")) times.at(static_cast<size_t>(std::lround(h / 100))) += 1;
        for (int64_t k = 0; k < K; ++k) CHECK(std::fabs(times[k] - n * std::exp(logits[k]) / total) <= 3);
        CHECK(times[0] + times[5] == 0);
    });
}

TEST_CASE("mixture_cdf_inverse and mixture_cdf_draw refuse") {
    OpCase c = inverse({2, 3, 4});
    field(c, "failed") = output("failed", {2}, DType::f32);
    check_refused(c, Code::invalid_argument, "failed is f32, expected i32");
    c = draw({2, 3, 4});
    field(c, "uniform") = input("uniform", {2, 4});
    check_refused(c, Code::invalid_argument, "uniform has shape [2, 4], expected [2, 3]");
}
