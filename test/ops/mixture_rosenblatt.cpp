#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

/// Tokens z near components of the table, or (off > 0) that far off; logits of the given scale.
struct Shape {
    int64_t R, K, d;
    double sigma = 0.3, off = 0, logit_scale = 2, spread = 0.2;
    std::string text() const {
        return std::to_string(R) + " K " + std::to_string(K) + "x" + std::to_string(d) + " sigma " +
               std::to_string(sigma) + " off " + std::to_string(off);
    }
};

double normal_of(uint64_t i) {
    const auto uniform = [](uint64_t x) {
        x = (x + seed()) * 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return (static_cast<double>((x ^ (x >> 31)) >> 11) + 0.5) * 0x1p-53;
    };
    return std::sqrt(-2 * std::log(uniform(2 * i))) * std::cos(6.283185307179586 * uniform(2 * i + 1));
}
float mean_of(const Shape& s, int64_t k, int64_t i) {
    return static_cast<float>(normal_of(static_cast<uint64_t>(k * s.d + i)));
}
float log_sigma_of(const Shape& s, int64_t k) {
    return static_cast<float>(std::log(s.sigma) + s.spread * normal_of(static_cast<uint64_t>(5000000 + k)));
}
int64_t token_of(const Shape& s, int64_t r) {
    return (r * 7919 + 3) % s.K;
}

Field filled(const std::string& name, std::vector<int64_t> shape, const std::function<double(int64_t)>& value) {
    Field f = input(name, shape);
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    for (int64_t i = 0; i < n; ++i) f.fill.values.push_back(value(i));
    return f;
}

std::vector<Field> mixture_fields(const Shape& s) {
    return {input("logits", {s.R, s.K}, {.scale = s.logit_scale}),
            filled("mean", {s.K, s.d}, [&](int64_t n) { return mean_of(s, n / s.d, n % s.d); }),
            filled("log_sigma", {s.K}, [&](int64_t k) { return log_sigma_of(s, k); })};
}
Field tokens(const Shape& s) {
    return filled("z", {s.R, s.d}, [&](int64_t n) {
        const int64_t r = n / s.d, i = n % s.d, k = token_of(s, r);
        const double noise = normal_of(static_cast<uint64_t>(9000000 + n));
        return mean_of(s, k, i) + (std::exp(log_sigma_of(s, k)) + s.off) * noise;
    });
}

std::vector<Field> with(std::vector<Field> fields, std::vector<Field> more) {
    fields.insert(fields.end(), more.begin(), more.end());
    return fields;
}

OpCase forward(const Shape& s) {
    return {"mixture_rosenblatt " + s.text(),
            with(mixture_fields(s),
                 {tokens(s), output("u", {s.R, s.d}), output("log_density", {s.R}), output("log_det", {s.R})}),
            [](const Tensors& t, Context& c) {
                return mixture_rosenblatt({.z = t["z"],
                                           .logits = t["logits"],
                                           .mean = t["mean"],
                                           .log_sigma = t["log_sigma"],
                                           .u = t["u"],
                                           .log_density = t["log_density"],
                                           .log_det = t["log_det"]},
                                          c);
            }};
}

MixtureRosenblattBackward backward_of(const Tensors& t) {
    return {.z = t["z"],
            .logits = t["logits"],
            .mean = t["mean"],
            .log_sigma = t["log_sigma"],
            .d_u = t["d_u"],
            .d_log_density = t["d_log_density"],
            .d_log_det = t["d_log_det"],
            .d_z = t["d_z"],
            .d_logits = t["d_logits"],
            .d_mean = t["d_mean"],
            .d_log_sigma = t["d_log_sigma"]};
}

OpCase backward(const Shape& s, double scale = 1) {
    return {
        "mixture_rosenblatt_backward " + s.text(),
        with(mixture_fields(s),
             {tokens(s), input("d_u", {s.R, s.d}), input("d_log_density", {s.R}), input("d_log_det", {s.R}),
              output("d_z", {s.R, s.d}), output("d_logits", {s.R, s.K}), in_out("d_mean", {s.K, s.d}, {.scale = scale}),
              in_out("d_log_sigma", {s.K}, {.scale = scale})}),
        [](const Tensors& t, Context& c) { return mixture_rosenblatt_backward(backward_of(t), c); },
        // Far out a tail is summed in double, but its parts are e^-60 in f32, whose exponent alone is rounded by 4e-6.
        s.off > 0 ? 64.0 : 4.0, 1e-6};  // a logit's gradient is a difference of shares around 1, and may be 0
}

OpCase without(OpCase c, const std::vector<std::string>& names) {
    for (const std::string& name : names) {
        c.title += " without " + name;
        std::erase_if(c.fields, [&](const Field& f) { return f.name == name; });
    }
    return c;
}
Field& field(OpCase& c, const std::string& name) {
    for (Field& f : c.fields)
        if (f.name == name) return f;
    return c.fields.at(99);
}

constexpr Shape kShapes[] = {
    {0, 3, 2},        {1, 1, 1},        {3, 1, 4, 1},     {5, 2, 3},      {9, 27, 5, 0.1},         {7, 27, 5, 1, 0, 4},
    {66, 16, 2, 0.5}, {4, 17, 16, 0.3}, {3, 300, 4, 0.2}, {2, 33, 19, 2}, {2, 1000, 3, 0.1, 0, 5}, {3, 64, 16, 0.1}};
/// Off by several sigma in every scalar: components that were left behind come back.
constexpr Shape kOff[] = {
    {6, 27, 5, 0.1, 0.3}, {4, 60, 16, 0.1, 0.5}, {5, 40, 6, 0.3, 2}, {3, 200, 5, 0.05, 0.3, 2, 0.6}};

/// Runs on every instruction set and device and hands over the tensors.
void each_backend(const OpCase& c, const std::function<void(const Tensors&, const std::string&)>& look) {
    ThreadTeam one(1);
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        if (std::getenv("NOEMA_TEST_DEVICES")) break;
        EachIsa::use(isa);
        const Tensors t = make_tensors(c.fields, c.title, false, false);
        REQUIRE(run_on(c, t, "cpu", one).ok());
        look(t, isa);
    }
    for (const std::string& device : devices()) {
        Tensors t = make_tensors(c.fields, c.title, false, false);
        if (run_on_device(c, t, device_engine(device)).ok()) look(t, device);
    }
}

}  // namespace

TEST_CASE("mixture_rosenblatt") {
    for (const Shape& s : kShapes) check(forward(s));
    for (const std::vector<std::string>& names : std::vector<std::vector<std::string>>{{"u"},
                                                                                       {"log_density"},
                                                                                       {"log_det"},
                                                                                       {"u", "log_density"},
                                                                                       {"u", "log_det"},
                                                                                       {"u", "log_density", "log_det"}})
        for (const int64_t K : {5, 40}) check(without(forward({6, K, 5}), names));
}

TEST_CASE("mixture_rosenblatt of tokens far from every component") {
    for (const Shape& s : kOff) check(forward(s));
}

TEST_CASE("mixture_rosenblatt_backward") {
    for (const Shape& s : kShapes) check(backward(s));
    for (const Shape& s : kOff) check(backward(s));
    check(backward({150, 5, 2}));
    for (const std::vector<std::string>& names :
         std::vector<std::vector<std::string>>{{"d_u"},
                                               {"d_log_density"},
                                               {"d_log_det"},
                                               {"d_u", "d_log_det"},
                                               {"d_u", "d_log_density", "d_log_det"},
                                               {"d_mean"},
                                               {"d_log_sigma"},
                                               {"d_mean", "d_log_sigma"}})
        check(without(backward({6, 40, 5}), names));
    for (const Shape& s : {Shape{4, 1, 3, 1}, Shape{4, 3, 2, 0.5}, Shape{3, 6, 4, 0.7, 0.3}, Shape{3, 5, 3, 0.5, 1}})
        check_gradient({forward(s),
                        backward(s, 0),
                        {{"u", "d_u"}, {"log_density", "d_log_density"}, {"log_det", "d_log_det"}},
                        {{"z", "d_z"}, {"logits", "d_logits"}, {"mean", "d_mean"}, {"log_sigma", "d_log_sigma"}}});
}

namespace {

OpCase inverse(const Shape& s, double u_scale = 1) {
    return {"mixture_rosenblatt_inverse " + s.text() + " u " + std::to_string(u_scale),
            with(mixture_fields(s), {input("u", {s.R, s.d}, {.scale = u_scale}), output("z", {s.R, s.d}),
                                     output("failed", {s.R}, DType::i32), output("evaluations", {s.R}, DType::i32)}),
            [](const Tensors& t, Context& c) {
                return mixture_rosenblatt_inverse({.u = t["u"],
                                                   .logits = t["logits"],
                                                   .mean = t["mean"],
                                                   .log_sigma = t["log_sigma"],
                                                   .z = t["z"],
                                                   .failed = t["failed"],
                                                   .evaluations = t["evaluations"]},
                                                  c);
            }};
}

/// The same mixtures' u of tokens z, by the reference.
std::vector<double> u_of(const Shape& s, const std::vector<Field>& mixture, const Tensors& t,
                         const std::vector<double>& z) {
    OpCase c = without(forward(s), {"log_density", "log_det"});
    for (const Field& f : mixture) field(c, f.name).fill.values = t.values(f.name);
    field(c, "z").fill.values = z;
    for (Field& f : c.fields) f.dtype = DType::f64;
    const Tensors out = make_tensors(c.fields, c.title, true, false);
    ThreadTeam one(1);
    REQUIRE(run_on(c, out, "reference", one).ok());
    return out.values("u");
}

/// |u(z) - u| is what counts, scalar by scalar, up to what rounding z makes of it.
std::string residual(const Shape& s, const Tensors& t, const std::vector<double>& u, const std::vector<double>& z) {
    const std::vector<Field> mixture = mixture_fields(s);
    const std::vector<double> at = u_of(s, mixture, t, z);
    std::vector<double> nudged = z;
    for (int64_t i = s.d - 1; i >= 0; --i) {  // a scalar's own rounding, and that of those before it
        for (int64_t r = 0; r < s.R; ++r) nudged[r * s.d + i] += std::fabs(z[r * s.d + i]) * 0x1p-22 + s.sigma * 1e-6;
    }
    const std::vector<double> other = u_of(s, mixture, t, nudged);
    for (size_t n = 0; n < z.size(); ++n) {
        const double error = std::fabs(at[n] - u[n]);
        if (!(error <= 1e-5 + 2e-6 * std::fabs(u[n]) + 3 * std::fabs(other[n] - at[n])))
            return "residual " + std::to_string(error * 1e6) + "e-6 at scalar " + std::to_string(n) + ", u " +
                   std::to_string(u[n]) + ", z " + std::to_string(z[n]);
    }
    return "";
}

OpCase judged_inverse(const Shape& s, double u_scale = 1) {
    OpCase c = inverse(s, u_scale);
    c.judge = [s](const Tensors& truth, const Tensors& measured) -> std::string {
        for (const double failed : measured.values("failed"))
            if (failed != 0) return "a scalar failed";
        return s.R == 0 ? "" : residual(s, measured, truth.values("u"), measured.values("z"));
    };
    return c;
}

OpCase draw(const Shape& s) {
    OpCase c{"mixture_rosenblatt_draw " + s.text(),
             with(mixture_fields(s), {filled("uniform", {s.R},
                                             [&](int64_t r) {
                                                 return 0.5 * std::erfc(normal_of(static_cast<uint64_t>(7777777 + r)) *
                                                                        std::sqrt(0.5));
                                             }),
                                      input("normal", {s.R, s.d}), output("z", {s.R, s.d})}),
             [](const Tensors& t, Context& c) {
                 return mixture_rosenblatt_draw({.uniform = t["uniform"],
                                                 .normal = t["normal"],
                                                 .logits = t["logits"],
                                                 .mean = t["mean"],
                                                 .log_sigma = t["log_sigma"],
                                                 .z = t["z"]},
                                                c);
             }};
    return c;
}

int64_t nearest(const std::vector<double>& mean, const double* z, int64_t K, int64_t d) {
    int64_t best = 0;
    double least = INFINITY;
    for (int64_t k = 0; k < K; ++k) {
        double sum = 0;
        for (int64_t i = 0; i < d; ++i) sum += (mean[k * d + i] - z[i]) * (mean[k * d + i] - z[i]);
        if (sum < least) least = sum, best = k;
    }
    return best;
}

}  // namespace

TEST_CASE("mixture_rosenblatt_inverse") {
    for (const Shape& s : kShapes)
        if (s.K <= 300) check(judged_inverse(s));
    check(judged_inverse({1, 1030, 2, 0.1}));
    check(judged_inverse({33, 9, 3, 0.2}));
    for (const double u_scale : {4.0, 15.0, 60.0}) check(judged_inverse({5, 9, 3, 0.3}, u_scale));
    for (const double sigma : {0.02, 3.0, 30.0}) check(judged_inverse({5, 12, 4, sigma}));
    for (const std::vector<std::string>& names :
         std::vector<std::vector<std::string>>{{"evaluations"}, {"failed"}, {"evaluations", "failed"}}) {
        OpCase c = without(inverse({4, 5, 3, 1}), names);
        c.judge = [](const Tensors& truth, const Tensors& measured) -> std::string {
            const std::vector<double> a = truth.values("z"), b = measured.values("z");
            for (size_t i = 0; i < a.size(); ++i)
                if (!(std::fabs(a[i] - b[i]) <= 1e-4)) return "is not what the reference finds";
            return "";
        };
        check(c);
    }
    OpCase c = without(inverse({4, 5, 3, 1}), {"z", "failed", "evaluations"});
    field(c, "u").role = Role::in_out;
    c.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt_inverse(
            {.u = t["u"], .logits = t["logits"], .mean = t["mean"], .log_sigma = t["log_sigma"], .z = t["u"]}, context);
    };
    c.allowance = 1e-4;
    check(c);
}

TEST_CASE("mixture_rosenblatt: far out, tails belong to components of hardly any weight") {
    for (const Shape& s : {Shape{6, 27, 5, 0.3, 3, 10, 0.5}, Shape{6, 600, 4, 0.3, 2, 12, 0.3}}) {
        OpCase c = forward(s);
        c.roundings =
            64;  // log_det adds up u²/2 and log p, near 30 each, of which the first comes from a tail in double
        check(c);
        check(backward(s));
        for (const double u_scale : {3.0, 15.0, 40.0}) check(judged_inverse(s, u_scale));
    }
}

TEST_CASE("mixture_rosenblatt_inverse undoes mixture_rosenblatt, token by token") {
    for (const Shape& s :
         {Shape{200, 27, 5, 0.1, 0, 1, 0}, Shape{12, 1000, 16, 0.1, 0, 1, 0}, Shape{12, 1000, 16, 0.3, 0, 1, 0}}) {
        each_backend(without(forward(s), {"log_density", "log_det"}), [&](const Tensors& t, const std::string& who) {
            OpCase back = inverse(s);
            field(back, "u").fill.values = t.values("u");
            field(back, "logits").fill.values = t.values("logits");
            const std::vector<double> mean = t.values("mean"), z = t.values("z");
            each_backend(back, [&](const Tensors& b, const std::string& whose) {
                if (who != whose) return;
                const std::vector<double> again = b.values("z");
                double evaluations = 0;
                for (int64_t r = 0; r < s.R; ++r) {
                    INFO(who, " ", s.text(), " token ", r);
                    CHECK(b.values("failed")[r] == 0);
                    CHECK(nearest(mean, &again[r * s.d], s.K, s.d) == nearest(mean, &z[r * s.d], s.K, s.d));
                    evaluations += b.values("evaluations")[r] / static_cast<double>(s.R * s.d);
                }
                CHECK_MESSAGE(evaluations <= 3.5, who, " ", s.text(), ": ", evaluations);
            });
        });
    }
}

TEST_CASE("mixture_rosenblatt_draw") {
    for (const Shape& s : kShapes) check(draw(s));
    check(draw({40, 700, 3}));
    OpCase c = without(draw({5, 30, 4}), {"z"});
    field(c, "normal").role = Role::in_out;
    c.run = [](const Tensors& t, Context& context) {
        return mixture_rosenblatt_draw({.uniform = t["uniform"],
                                        .normal = t["normal"],
                                        .logits = t["logits"],
                                        .mean = t["mean"],
                                        .log_sigma = t["log_sigma"],
                                        .z = t["normal"]},
                                       context);
    };
    check(c);
}

TEST_CASE("mixture_rosenblatt_backward may write the logits' gradient over them") {
    for (const int64_t K : {1, 17, 40}) {
        OpCase c = without(backward({5, K, 4}), {"d_logits"});
        field(c, "logits").role = Role::in_out;
        c.run = [](const Tensors& t, Context& context) {
            MixtureRosenblattBackward p = backward_of(t);
            p.d_logits = t["logits"];
            return mixture_rosenblatt_backward(p, context);
        };
        check(c);
    }
}

TEST_CASE("mixture_rosenblatt is one vocabulary wide") {
    // On the processor alone, best instruction set: 50257 tokens of width 16.
    if (std::getenv("NOEMA_TEST_DEVICES")) return;
    const Shape s{3, 50257, 16, 0.1, 0, 2, 0};
    const OpCase there = forward(s);
    const Tensors t = make_tensors(there.fields, there.title, false, false);
    ThreadTeam two(2);
    REQUIRE(run_on(there, t, "cpu", two).ok());
    OpCase back = inverse(s);
    for (const char* name : {"u", "logits"}) field(back, name).fill.values = t.values(name);
    const Tensors b = make_tensors(back.fields, back.title, false, false);
    REQUIRE(run_on(back, b, "cpu", two).ok());
    const std::vector<double> mean = t.values("mean"), again = b.values("z");
    double evaluations = 0;
    for (int64_t r = 0; r < s.R; ++r) {
        CHECK(nearest(mean, &again[r * s.d], s.K, s.d) == token_of(s, r));
        evaluations += b.values("evaluations")[r] / static_cast<double>(s.R * s.d);
    }
    CHECK_MESSAGE(evaluations <= 3.5, evaluations);
    // What u leaves out is seen in no digit of the density.
    const std::vector<double> density = t.values("log_density");
    OpCase only = without(there, {"u", "log_det"});
    field(only, "logits").fill.values = t.values("logits");
    const Tensors o = make_tensors(only.fields, only.title, false, false);
    REQUIRE(run_on(only, o, "cpu", two).ok());
    for (int64_t r = 0; r < s.R; ++r) CHECK(std::fabs(o.values("log_density")[r] - density[r]) <= 2e-5);
}

TEST_CASE("mixture_rosenblatt's rows do not depend on each other") {
    const Shape s{6, 300, 5, 0.2};
    const OpCase all = forward(s), all_back = backward(s);
    EachIsa isas;
    ThreadTeam one(1);
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        const Tensors whole = make_tensors(all.fields, all.title, false, false);
        const Tensors whole_back = make_tensors(all_back.fields, all_back.title, false, false);
        REQUIRE(run_on(all, whole, "cpu", one).ok());
        REQUIRE(run_on(all_back, whole_back, "cpu", one).ok());
        const auto row = [&](const Tensors& t, const char* name, int64_t r) {
            const std::vector<double> values = t.values(name);
            const int64_t n = static_cast<int64_t>(values.size()) / s.R;
            return std::vector<double>(values.begin() + r * n, values.begin() + (r + 1) * n);
        };
        for (int64_t r = 0; r < s.R; ++r) {
            OpCase single = forward({1, s.K, s.d, s.sigma}), single_back = backward({1, s.K, s.d, s.sigma});
            for (const char* name : {"z", "logits"}) {
                field(single, name).fill.values = row(whole, name, r);
                field(single_back, name).fill.values = row(whole_back, name, r);
            }
            for (const char* name : {"d_u", "d_log_density", "d_log_det"})
                field(single_back, name).fill.values = row(whole_back, name, r);
            const Tensors t = make_tensors(single.fields, single.title, false, false);
            const Tensors b = make_tensors(single_back.fields, single_back.title, false, false);
            REQUIRE(run_on(single, t, "cpu", one).ok());
            REQUIRE(run_on(single_back, b, "cpu", one).ok());
            CHECK(t.values("u") == row(whole, "u", r));
            CHECK(b.values("d_logits") == row(whole_back, "d_logits", r));
            CHECK(b.values("d_z") == row(whole_back, "d_z", r));
        }
    }
}

TEST_CASE("mixture_rosenblatt ops survive what is not finite, and say so") {
    const double inf = static_cast<double>(INFINITY);
    for (const int64_t K : {3, 40})
        for (const double bad : {static_cast<double>(NAN), inf, -inf})
            for (const char* name : {"z", "logits", "mean", "log_sigma", "u"}) {
                const Shape s{4, K, 3};
                for (OpCase c : {forward(s), backward(s), inverse(s), draw(s)}) {
                    bool has = false;
                    for (const Field& f : c.fields) has |= f.name == name && f.role == Role::input;
                    if (!has) continue;
                    const Tensors before = make_tensors(c.fields, c.title, false, false);
                    field(c, name).fill.values = before.values(name);
                    field(c, name).fill.values[1] = bad;
                    const bool is_inverse = static_cast<bool>(before["failed"]),
                               is_forward = static_cast<bool>(before["log_det"]);
                    const std::string poisoned = name;
                    each_backend(c, [&](const Tensors& t, const std::string& who) {
                        INFO(who, " ", c.title, " ", poisoned, " ", bad);
                        // The first token has a number that is none; the last has its own, unless the table is shared.
                        const bool shared = poisoned == "mean" || poisoned == "log_sigma";
                        if (is_inverse && (std::isnan(bad) || poisoned == "u")) CHECK(t.values("failed")[0] > 0);
                        if (is_inverse && !shared) CHECK(t.values("failed")[3] == 0);
                        if (is_forward && std::isnan(bad)) CHECK(std::isnan(t.values("log_density")[0]));
                        if (is_forward && !shared) CHECK(std::isfinite(t.values("log_det")[3]));
                    });
                }
            }
}

TEST_CASE("mixture_rosenblatt ops refuse") {
    OpCase c = forward({3, 5, 4});
    field(c, "logits") = input("logits", {3, 4});
    check_refused(c, Code::invalid_argument, "logits has shape [3, 4], expected [3, 5]");
    c = forward({3, 5, 4});
    field(c, "u") = output("u", {3, 5});
    check_refused(c, Code::invalid_argument, "u has shape [3, 5], expected [3, 4]");
    c = backward({3, 5, 4});
    field(c, "d_log_sigma") = in_out("d_log_sigma", {4});
    check_refused(c, Code::invalid_argument, "d_log_sigma has shape [4], expected [5]");
    c = inverse({3, 5, 4});
    field(c, "failed") = output("failed", {3});
    check_refused(c, Code::invalid_argument, "failed is f32, expected i32");
    c = draw({3, 5, 4});
    field(c, "uniform") = input("uniform", {4});
    check_refused(c, Code::invalid_argument, "normal has shape [3, 4], expected [4, 4]");
    c = draw({3, 5, 4});
    c.fields[0] = input("logits", {3, 0});
    c.fields[1] = input("mean", {0, 4});
    c.fields[2] = input("log_sigma", {0});
    check_refused(c, Code::invalid_argument, "mean must have a row and a column");
}

TEST_CASE("mixture_rosenblatt's gradients are right to 2e-5 of their norm, its u to 1e-5") {
    ThreadTeam one(1);
    const auto compare = [&](const OpCase& c, const std::vector<std::string>& names, double allowed) {
        const Tensors truth = make_tensors(c.fields, c.title, true, false);
        REQUIRE(run_on(c, truth, "reference", one).ok());
        each_backend(c, [&](const Tensors& t, const std::string& who) {
            for (const std::string& name : names) {
                const std::vector<double> expected = truth.values(name), measured = t.values(name);
                double off = 0, norm = 0;
                for (size_t i = 0; i < expected.size(); ++i) {
                    off += (measured[i] - expected[i]) * (measured[i] - expected[i]);
                    norm += expected[i] * expected[i];
                }
                CHECK_MESSAGE(std::sqrt(off) <= allowed * std::sqrt(norm), who, " ", c.title, " ", name, ": ",
                              std::sqrt(off / norm));
            }
        });
    };
    for (const Shape& s : {Shape{64, 27, 5, 0.1}, Shape{64, 27, 5, 1}, Shape{8, 300, 16, 0.3}}) {
        compare(forward(s), {"u", "log_density", "log_det"}, 1e-5);
        compare(backward(s, 0), {"d_z", "d_logits", "d_mean", "d_log_sigma"}, 2e-5);
    }
}
