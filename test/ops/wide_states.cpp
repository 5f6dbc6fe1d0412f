// States in f64: forward and inverse of the couplings in double, and that on a grid the inverse gives back what forward began with, to the
// bit. The two-error rule would measure f64 by an f32 yardstick, so errors are judged by themselves here.
#include <cmath>

#include "doctest/doctest.h"
#include "noema/ops/grid.h"
#include "ops/mixture_cases.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr double kGrid = 0x1p-20;

Field wide(Field f) {
    f.dtype = DType::f64;
    return f;
}

/// Largest |measured - truth| / (1 + |truth|), of those that are finite; infinite where one is and the other is not.
double worst(const std::vector<double>& truth, const std::vector<double>& measured) {
    double most = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
        if (truth[i] == measured[i] || (std::isnan(truth[i]) && std::isnan(measured[i]))) continue;
        const double error = std::fabs(measured[i] - truth[i]) / (1 + std::fabs(truth[i]));
        most = std::max(most, std::isfinite(error) ? error : HUGE_VAL);
    }
    return most;
}

/// States within `allowed` of the truth, relative to 1 + its size; sums that are f32 within some of their roundings.
std::function<std::string(const Tensors&, const Tensors&)> within(const OpCase& c, double allowed) {
    return [fields = c.fields, allowed](const Tensors& truth, const Tensors& measured) -> std::string {
        for (const Field& f : fields) {
            if (f.role == Role::input || !is_float(f.dtype)) continue;
            const double error = worst(truth.values(f.name), measured.values(f.name));
            const double most = f.dtype == DType::f64 ? allowed : std::max(allowed, 1e-6);
            if (!(error <= most)) return f.name + " is off by " + std::to_string(error / most) + " of what is allowed";
        }
        return "";
    };
}

void check_within(OpCase c, double allowed) {
    c.judge = within(c, allowed);
    check(c);
}

/// States that are equal to the bit.
OpCase returning(OpCase c, const std::string& from, const std::string& back) {
    c.judge = [=](const Tensors&, const Tensors& measured) -> std::string {
        const std::vector<double> x = measured.values(from), y = measured.values(back);
        size_t lost = 0, first = 0;
        for (size_t i = x.size(); i-- > 0;)
            if (!(x[i] == y[i])) ++lost, first = i;
        if (lost == 0) return "";
        return std::to_string(lost) + " of " + std::to_string(x.size()) + " are not given back, the first at " +
               std::to_string(first) + ": off by " + std::to_string((y[first] - x[first]) / kGrid) + " of the grid";
    };
    return c;
}

// --- affine -----------------------------------------------------------------------------------------------------------

OpCase affine_case(int64_t R, int64_t c, double scale = 1) {
    return {"wide affine " + std::to_string(R) + "x" + std::to_string(c) + " scale " + std::to_string(scale),
            {wide(input("h", {R, c})), input("parameters", {R, 2 * c}, {.scale = scale}), wide(output("u", {R, c})),
             output("log_density", {R}), output("log_det", {R})},
            [](const Tensors& t, Context& context) {
                return affine({.h = t["h"],
                               .parameters = t["parameters"],
                               .u = t["u"],
                               .log_density = t["log_density"],
                               .log_det = t["log_det"]},
                              context);
            }};
}

OpCase affine_inverse_case(int64_t R, int64_t c) {
    return {"wide affine_inverse " + std::to_string(R) + "x" + std::to_string(c),
            {wide(input("u", {R, c})), input("parameters", {R, 2 * c}), wide(output("h", {R, c}))},
            [](const Tensors& t, Context& context) {
                return affine_inverse({.u = t["u"], .parameters = t["parameters"], .h = t["h"]}, context);
            }};
}

std::vector<double> gridded(int64_t n, double scale = 1) {
    std::vector<double> x;
    for (int64_t i = 0; i < n; ++i) x.push_back(on_grid(scale * mixture::normal_of(static_cast<uint64_t>(i)), kGrid));
    return x;
}

// --- mixture_rosenblatt -----------------------------------------------------------------------------------------------

/// Tokens of which every third has a logit `surprise` nats below the others.
struct Table {
    int64_t R, K, d;
    double sigma, surprise;
    std::string text() const {
        return std::to_string(R) + "x" + std::to_string(d) + " K " + std::to_string(K) + " surprise " +
               std::to_string(surprise);
    }
    int64_t token(int64_t r) const { return (r * 7 + 3) % K; }
};

std::vector<Field> table_fields(const Table& t) {
    std::vector<double> logits, mean, log_sigma, z;
    uint64_t at = 0;
    const auto normal = [&] { return mixture::normal_of(at++); };
    for (int64_t i = 0; i < t.K * t.d; ++i) mean.push_back(static_cast<double>(static_cast<float>(normal())));
    for (int64_t k = 0; k < t.K; ++k) log_sigma.push_back(std::log(t.sigma) + 0.1 * normal());
    for (int64_t r = 0; r < t.R; ++r) {
        const int64_t own = t.token(r);
        for (int64_t k = 0; k < t.K; ++k) logits.push_back(normal() - (k == own && r % 3 == 0 ? t.surprise : 0));
        for (int64_t i = 0; i < t.d; ++i) z.push_back(on_grid(mean[own * t.d + i] + t.sigma * normal(), kGrid));
    }
    const auto filled = [](Field f, const std::vector<double>& values) {
        f.fill.values = values;
        return f;
    };
    return {wide(filled(input("z", {t.R, t.d}), z)), filled(input("logits", {t.R, t.K}), logits),
            filled(input("mean", {t.K, t.d}), mean), filled(input("log_sigma", {t.K}), log_sigma)};
}

OpCase rosenblatt_case(const Table& t) {
    OpCase c{"wide mixture_rosenblatt " + t.text(), table_fields(t), [](const Tensors& t, Context& context) {
                 return mixture_rosenblatt({.z = t["z"],
                                            .logits = t["logits"],
                                            .mean = t["mean"],
                                            .log_sigma = t["log_sigma"],
                                            .u = t["u"],
                                            .log_density = t["log_density"],
                                            .log_det = t["log_det"]},
                                           context);
             }};
    c.fields.push_back(wide(output("u", {t.R, t.d})));
    c.fields.push_back(output("log_density", {t.R}));
    c.fields.push_back(output("log_det", {t.R}));
    return c;
}

OpCase rosenblatt_return(const Table& t) {
    OpCase c{"mixture_rosenblatt there and back " + t.text(), table_fields(t), [](const Tensors& t, Context& context) {
                 const Status forward = mixture_rosenblatt(
                     {.z = t["z"], .logits = t["logits"], .mean = t["mean"], .log_sigma = t["log_sigma"], .u = t["u"]},
                     context);
                 if (!forward.ok()) return forward;
                 return mixture_rosenblatt_inverse({.u = t["u"],
                                                    .logits = t["logits"],
                                                    .mean = t["mean"],
                                                    .log_sigma = t["log_sigma"],
                                                    .z = t["back"],
                                                    .failed = t["failed"],
                                                    .grid = kGrid},
                                                   context);
             }};
    c.fields.push_back(wide(output("u", {t.R, t.d})));
    c.fields.push_back(wide(output("back", {t.R, t.d})));
    c.fields.push_back(output("failed", {t.R}, DType::i32));
    return returning(c, "z", "back");
}

}  // namespace

TEST_CASE("affine of wide states") {
    for (const int64_t c : {0, 1, 3, 8, 16, 17, 65}) {
        check_within(affine_case(5, c), 1e-13);
        check_within(affine_inverse_case(5, c), 1e-13);
    }
    check_within(affine_case(40, 16, 30), 1e-13);
    for (const int64_t R : {0, 1, 700}) check_within(affine_case(R, 16), 1e-13);
    OpCase c = affine_case(60, 16, 3);
    c.title += " and back";
    c.fields[0].fill.values = gridded(60 * 16);
    c.fields.push_back(wide(output("back", {60, 16})));
    c.run = [](const Tensors& t, Context& context) {
        const Status forward = affine({.h = t["h"],
                                       .parameters = t["parameters"],
                                       .u = t["u"],
                                       .log_density = t["log_density"],
                                       .log_det = t["log_det"],
                                       .grid = kGrid / 64},
                                      context);
        if (!forward.ok()) return forward;
        return affine_inverse({.u = t["u"], .parameters = t["parameters"], .h = t["back"], .grid = kGrid}, context);
    };
    check(returning(c, "h", "back"));
}

TEST_CASE("mixture_cdf of wide states") {
    using namespace mixture;
    for (const int64_t K : kComponents) {
        OpCase c = forward({.R = 5, .c = 3, .K = K});
        for (const char* name : {"h", "u"}) field(c, name).dtype = DType::f64;
        c.title += " wide";
        check_within(c, 1e-12);
    }
    OpCase c = forward({.R = 7, .c = 16, .K = 27, .sigma = 0.05});
    for (const char* name : {"h", "u"}) field(c, name).dtype = DType::f64;
    c.title += " and back";
    const std::vector<double> parameters = field(c, "parameters").fill.values;
    std::vector<double> h;  // near components: between them F is flat, and nothing leads back
    for (size_t i = 0; i < 7 * 16; ++i)
        h.push_back(on_grid(parameters[i * 81 + 27 + i % 27] + 0.05 * normal_of(i), kGrid));
    field(c, "h").fill.values = h;
    c.fields.push_back(wide(output("back", {7, 16})));
    c.fields.push_back(output("failed", {7}, DType::i32));
    c.run = [](const Tensors& t, Context& context) {
        const Status there = mixture_cdf({.h = t["h"],
                                          .parameters = t["parameters"],
                                          .u = t["u"],
                                          .log_density = t["log_density"],
                                          .log_det = t["log_det"]},
                                         context);
        if (!there.ok()) return there;
        return mixture_cdf_inverse(
            {.u = t["u"], .parameters = t["parameters"], .h = t["back"], .failed = t["failed"], .grid = kGrid},
            context);
    };
    check(returning(c, "h", "back"));
}

TEST_CASE("mixture_cdf of wide states: the normal distribution in double, as far as it goes") {
    // One standard component: u is h itself.
    constexpr int64_t n = 1681;
    OpCase c = mixture::forward({.R = n, .c = 1, .K = 1});
    for (const char* name : {"h", "u"}) mixture::field(c, name).dtype = DType::f64;
    std::vector<double> h;
    for (int64_t i = 0; i < n; ++i) h.push_back((static_cast<double>(i) - n / 2) * 0.05);
    mixture::field(c, "h").fill.values = h;
    mixture::field(c, "parameters").fill.values.assign(3 * n, 0.0);
    c.title += " of one";
    c.judge = [](const Tensors&, const Tensors& measured) -> std::string {
        const double error = worst(measured.values("h"), measured.values("u"));
        return error <= 2e-15 ? "" : "u is off by " + std::to_string(error * 1e15) + "e-15";
    };
    check(c);
}

TEST_CASE("mixture_rosenblatt of wide states") {
    // The table of scales is f32, so u is right to some 1e-6; what counts is that the inverse undoes it.
    for (const Table& t : {Table{5, 7, 1, 0.3, 0}, Table{5, 64, 3, 0.3, 4}, Table{9, 300, 5, 0.2, 8},
                           Table{0, 8, 2, 0.2, 0}, Table{3, 1, 4, 0.2, 0}})
        check_within(rosenblatt_case(t), 2e-5);
    for (const double surprise : {0.0, 8.0, 12.0, 16.0, 20.0}) {
        check(rosenblatt_return({48, 300, 5, 0.15, surprise}));
        check(rosenblatt_return({12, 4096, 16, 0.1, surprise}));
    }
    for (const int64_t K : {1, 2, 7, 17, 64, 130}) check(rosenblatt_return({20, K, 3, 0.3, 10}));
}

TEST_CASE("wide states that are no numbers stay none") {
    for (const double bad : {static_cast<double>(NAN), HUGE_VAL}) {
        OpCase c = rosenblatt_case({4, 40, 4, 0.3, 0});
        c.fields[0].fill.values[4 + 1] = bad;
        c.title += " with a bad scalar";
        c.judge = [bad](const Tensors&, const Tensors& measured) -> std::string {
            const std::vector<double> u = measured.values("u"), density = measured.values("log_density");
            if (!std::isfinite(u[4]) || !std::isfinite(u[0]) || !std::isfinite(density[0])) return "good ones are lost";
            const bool none = std::isnan(bad) ? std::isnan(u[5]) : !std::isfinite(u[5]) || std::fabs(u[5]) > 30;
            return none && !std::isfinite(u[6]) && !std::isfinite(density[1]) ? "" : "a bad scalar became a number";
        };
        check(c);
    }
    using namespace mixture;
    OpCase c = forward({.R = 2, .c = 3, .K = 5});
    for (const char* name : {"h", "u"}) field(c, name).dtype = DType::f64;
    field(c, "h").fill.values = {0, 1, 2, 0, static_cast<double>(NAN), 2};
    c.title += " wide, with a bad scalar";
    c.judge = [](const Tensors&, const Tensors& measured) -> std::string {
        const std::vector<double> u = measured.values("u"), det = measured.values("log_det");
        const bool right = std::isnan(u[4]) && std::isfinite(u[3]) && std::isfinite(u[5]) && std::isfinite(det[0]) &&
                           std::isnan(det[1]);
        return right ? "" : "a bad scalar became a number, or good ones are lost";
    };
    check(c);
}

TEST_CASE("mixture_cdf of wide states: between components far apart the density is thin, not lost") {
    using namespace mixture;
    OpCase c = forward({.R = 3, .c = 1, .K = 2});
    for (const char* name : {"h", "u"}) field(c, name).dtype = DType::f64;
    field(c, "h").fill.values = {0, 0.5, -3};
    std::vector<double>& parameters = field(c, "parameters").fill.values;
    parameters.clear();
    for (int r = 0; r < 3; ++r)
        for (const double x : {0.0, 0.0, -10.0, 10.0, raw_of(0.05), raw_of(0.05)}) parameters.push_back(x);
    c.title += " wide, thin";
    check_within(c, 1e-6);
}

TEST_CASE("mixture_rosenblatt of wide states: far out") {
    for (const double far : {3.9, 4.1, 8.0, 20.0, 29.0, 31.0, 42.0}) {
        OpCase c = rosenblatt_return({6, 40, 4, 0.3, 0});
        c.title += " at " + std::to_string(far);
        std::vector<double>& z = c.fields[0].fill.values;
        for (size_t i = 0; i < z.size(); i += 3) z[i] = on_grid(z[i] + 0.3 * (i % 2 ? far : -far), kGrid);
        check(c);
    }
}

TEST_CASE("wide states are refused where they do not fit") {
    OpCase c = affine_case(2, 4);
    c.fields[2].dtype = DType::f32;
    check_refused(c, Code::invalid_argument, "u must have h's type");
    c = affine_case(2, 4);
    c.run = [](const Tensors& t, Context& context) {
        return affine({.h = t["h"], .parameters = t["parameters"], .u = t["u"], .grid = 0.3}, context);
    };
    check_refused(c, Code::invalid_argument, "grid must be 0 or a power of two");
}

TEST_CASE("reorder and sweep of wide states") {
    for (const auto& [from, to] :
         {std::pair{DType::f64, DType::f64}, {DType::f64, DType::f32}, {DType::f32, DType::f64}})
        for (const bool late : {false, true})
            for (const ChannelOrder order : {ChannelOrder::as_is, ChannelOrder::even_odd, ChannelOrder::interleave}) {
                OpCase c{"reorder " + std::string(dtype_name(from)) + " to " + dtype_name(to) +
                             (late ? " late " : " ") + std::to_string(static_cast<int>(order)),
                         {input("x", {3, 5, 7}, {}, from), output("y", {3, 5, 7}, to)},
                         [order](const Tensors& t, Context& context) {
                             return reorder(
                                 {.x = t["x"], .first = t["first"], .y = t["y"], .channels = order, .reverse = true},
                                 context);
                         },
                         1};
                if (late) c.fields.push_back(input("first", {7}));
                check(c);
            }
    for (const int64_t n : {1, 5, 300}) {
        OpCase c{"wide sweep " + std::to_string(n),
                 {wide(input("next", {3, n})), wide(in_out("state", {3, n})),
                  in_out("change", {3}, {.values = {1, 0.25, INFINITY}}),
                  in_out("sweeps", {3}, {.low = 0, .high = 9}, DType::i32)},
                 [](const Tensors& t, Context& context) {
                     return sweep({.next = t["next"],
                                   .state = t["state"],
                                   .change = t["change"],
                                   .sweeps = t["sweeps"],
                                   .tolerance = 0.5f},
                                  context);
                 },
                 1};
        check(c);
    }
}
