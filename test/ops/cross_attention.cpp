#include <algorithm>
#include <cmath>
#include <numeric>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Shape {
    int64_t B = 2, T = 5, H = 2, D = 8, M = 4;
    bool fused = false;  // k and v are slices of one [B, M, 2 H D]
    double magnitude = 1;
    std::string gradients = "qkv";  // which of them backward is asked for
    bool weights = false;           // forward hands out its weights too

    std::string title() const {
        std::string text = "cross_attention";
        for (int64_t n : {B, T, H, D, M}) text.append(" ").append(std::to_string(n));
        return text + (fused ? " fused" : "") + (weights ? " weights" : "") + " x" + std::to_string(magnitude) + " " +
               gradients;
    }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
};

std::vector<Field> sources(const Shape& s) {
    const Fill fill{.scale = s.magnitude};
    if (s.fused) return {input("q", {s.B, s.T, s.H, s.D}), input("kv", {s.B, s.M, 2 * s.H * s.D})};
    return {input("q", {s.B, s.T, s.H, s.D}, fill), input("k", {s.B, s.M, s.H, s.D}, fill),
            input("v", {s.B, s.M, s.H, s.D})};
}

View source(const Shape& s, const Tensors& t, const std::string& name) {
    if (!s.fused || name == "q") return t[name];
    const View all = t["kv"];
    const int64_t first = name == "k" ? 0 : s.H * s.D;
    View v =
        view(all.as<uint8_t>() + first * static_cast<int64_t>(dtype_size(all.dtype)), all.dtype, s.B, s.M, s.H, s.D);
    v.stride[0] = all.stride[0];
    v.stride[1] = all.stride[1];
    return on_device(v, all.device);
}

OpCase forward(const Shape& s) {
    std::vector<Field> fields = sources(s);
    fields.push_back(output("out", {s.B, s.T, s.H, s.D}));
    if (s.weights) fields.push_back(output("weights", {s.B, s.T, s.H, s.M}));
    return {s.title(), fields, [s](const Tensors& t, Context& c) {
                return cross_attention({.q = source(s, t, "q"),
                                        .k = source(s, t, "k"),
                                        .v = source(s, t, "v"),
                                        .out = t["out"],
                                        .scale = s.scale(),
                                        .weights = t["weights"]},
                                       c);
            }};
}

OpCase backward(const Shape& s) {
    std::vector<Field> fields = sources(s);
    fields.push_back(input("d_out", {s.B, s.T, s.H, s.D}));
    for (const char name : s.gradients)
        fields.push_back(output(std::string("d_") + name, {s.B, name == 'q' ? s.T : s.M, s.H, s.D}));
    OpCase c{s.title(), fields, [s](const Tensors& t, Context& c) {
                 return cross_attention_backward({.q = source(s, t, "q"),
                                                  .k = source(s, t, "k"),
                                                  .v = source(s, t, "v"),
                                                  .d_out = t["d_out"],
                                                  .d_q = t["d_q"],
                                                  .d_k = t["d_k"],
                                                  .d_v = t["d_v"],
                                                  .scale = s.scale()},
                                                 c);
             }};
    // Where one latent takes all, d_P - sum(P d_P) is a difference of equal numbers, which the naive loop, summing both in one order,
    // takes to exactly 0. Two roundings of such a sum (about 8) times scale and k or q are allowed.
    c.allowance = 2e-6 * std::max(1.0, s.magnitude);
    return c;
}

void check_both(const Shape& s) {
    check(forward(s));
    check(backward(s));
}

/// What a case gives on "cpu" (with two threads) or a device, from given inputs.
Tensors run_with(OpCase c, const std::string& backend, const std::function<void(Field&)>& change) {
    static ThreadTeam two(2);
    for (Field& f : c.fields) change(f);
    Tensors t = make_tensors(c.fields, c.title, false, false);
    const Status status = backend == "cpu" ? run_on(c, t, "cpu", two) : run_on_device(c, t, device_engine(backend));
    REQUIRE_MESSAGE(status.ok(), status.text);
    return t;
}

/// Rows [first, first + n) of axis 1 of sequence b.
std::vector<double> slice(const Tensors& t, const std::string& name, int64_t b, int64_t first, int64_t n) {
    const View v = t[name];
    const int64_t row = v.shape[2] * v.shape[3];
    const std::vector<double> values = t.values(name);
    const auto start = values.begin() + (b * v.shape[1] + first) * row;
    return {start, start + n * row};
}

/// One sequence by itself: all of its tokens give the bits they give in the batch; and some of its tokens alone do.
void check_alone(const Shape& s, const std::string& backend) {
    const OpCase all_forward = forward(s), all_backward = backward(s);
    const auto keep = [](Field&) {};
    const Tensors out = run_with(all_forward, backend, keep), d = run_with(all_backward, backend, keep);
    for (const auto& [b, first, n] : {std::array<int64_t, 3>{0, 0, s.T}, {1, 0, s.T}, {1, 3, 1}, {0, 30, 37}}) {
        Shape few = s;
        few.B = 1;
        few.T = n;
        const auto take = [&, b = b, first = first, n = n](Field& f) {
            if (f.role == Role::output) return;
            const bool tokens = f.name == "q" || f.name == "d_out";
            f.fill.values = slice(d, f.name, b, tokens ? first : 0, tokens ? n : s.M);
        };
        OpCase f = forward(few), g = backward(few);
        g.title = f.title = s.title();
        const Tensors alone = run_with(g, backend, take);
        CHECK(alone.values("d_q") == slice(d, "d_q", b, first, n));
        if (n == s.T)
            for (const char* name : {"d_k", "d_v"}) CHECK(alone.values(name) == slice(d, name, b, 0, s.M));
        f.fields[0].fill.values = slice(out, "q", b, first, n);
        const auto of_forward = [&, b = b](Field& field) {
            if (field.name == "k" || field.name == "v") field.fill.values = slice(out, field.name, b, 0, s.M);
        };
        CHECK(run_with(f, backend, of_forward).values("out") == slice(out, "out", b, first, n));
    }
}

}  // namespace

TEST_CASE("cross_attention: latents, head widths") {
    for (int64_t M : {1, 2, 3, 4, 8, 9, 17, 64}) check_both({.B = 1, .T = 9, .H = 1, .D = 20, .M = M});
    for (int64_t D : {1, 3, 8, 16, 20, 31, 32, 33, 48, 64, 100, 128, 256})
        check_both({.B = 1, .T = 6, .H = 2, .D = D, .M = 3});
    check_both({.B = 1, .T = 5, .H = 1, .D = 256, .M = 64});
}

TEST_CASE("cross_attention: lengths") {
    for (int64_t T : {0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300})
        check_both({.B = 1, .T = T, .H = 1, .D = 8, .M = 5});
    for (int64_t B : {0, 1, 3}) check_both({.B = B, .T = 70, .H = 3, .D = 20, .M = 8});
    check_both({.B = 2, .T = 140, .H = 2, .D = 64, .M = 17});
}

TEST_CASE("cross_attention: keys and values that are slices of one projection") {
    for (int64_t D : {8, 20, 64}) check_both({.T = 33, .H = 3, .D = D, .M = 8, .fused = true});
}

TEST_CASE("cross_attention: only the gradients that are asked for") {
    for (const char* gradients : {"q", "k", "v", "kv", "qk", "qv", ""})
        check(backward({.T = 40, .D = 20, .M = 8, .gradients = gradients}));
}

TEST_CASE("cross_attention: large and tiny scores") {
    for (const double magnitude : {1e-20, 30.0, 1e4}) check_both({.T = 9, .M = 17, .magnitude = magnitude});
    // Scores near 1e32: the largest takes all, exactly.
    check(forward({.T = 9, .M = 17, .magnitude = 1e16}));
}

TEST_CASE("cross_attention: weights for those who ask") {
    for (int64_t M : {1, 3, 8, 9, 17, 64}) check(forward({.B = 1, .T = 9, .H = 3, .D = 20, .M = M, .weights = true}));
    for (int64_t T : {0, 1, 31, 33, 64, 65, 129, 300})
        check(forward({.T = T, .H = 2, .D = 8, .M = 5, .weights = true}));
    for (int64_t D : {64, 128, 256}) check(forward({.T = 70, .D = D, .M = 8, .fused = true, .weights = true}));
    check(forward({.T = 9, .M = 17, .magnitude = 1e4, .weights = true}));
}

TEST_CASE("cross_attention: weights sum to 1, and asking for them changes nothing") {
    const Shape plain{.T = 150, .H = 3, .D = 20, .M = 9};
    Shape asked = plain;
    asked.weights = true;
    const auto keep = [](Field&) {};
    std::vector<std::string> backends = devices();
    backends.push_back("cpu");
    for (const std::string& backend : backends) {
        INFO("backend ", backend);
        // The same seed for both: inputs are drawn by a case's title.
        OpCase quiet = forward(plain);
        quiet.title = asked.title();
        const Tensors told = run_with(forward(asked), backend, keep);
        CHECK(run_with(quiet, backend, keep).values("out") == told.values("out"));
        const std::vector<double> weights = told.values("weights");
        REQUIRE(weights.size() == static_cast<size_t>(2 * 150 * 3 * 9));
        for (size_t row = 0; row < weights.size(); row += 9) {
            const double sum = std::accumulate(&weights[row], &weights[row] + 9, 0.0);
            CHECK(sum == doctest::Approx(1).epsilon(1e-6));
            CHECK(*std::min_element(&weights[row], &weights[row] + 9) >= 0);
        }
    }
}

TEST_CASE("cross_attention: gradients") {
    for (int64_t M : {1, 3, 8})
        check_gradient({forward({.T = 4, .D = 5, .M = M}),
                        backward({.T = 4, .D = 5, .M = M}),
                        {{"out", "d_out"}},
                        {{"q", "d_q"}, {"k", "d_k"}, {"v", "d_v"}}});
}

TEST_CASE("cross_attention: a token does not depend on those beside it, nor a sequence on the others") {
    const Shape s{.T = 150, .H = 2, .D = 20, .M = 9};
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        INFO("instruction set ", isa);
        check_alone(s, "cpu");
    }
    for (const std::string& device : devices()) {
        INFO("device ", device);
        check_alone(s, device);
    }
}

TEST_CASE("cross_attention: NaN stays in its token and is not lost") {
    const Shape s{.B = 1, .T = 6, .H = 1, .D = 8, .M = 5};
    const auto spoil = [](Field& f) {
        if (f.name != "q") return;
        f.fill.values.assign(48, 0.5);
        f.fill.values[8 * 2 + 3] = NAN;
    };
    std::vector<std::string> backends = devices();
    backends.push_back("cpu");
    for (const std::string& backend : backends) {
        const std::vector<double> out = run_with(forward(s), backend, spoil).values("out");
        for (size_t i = 0; i < out.size(); ++i) CHECK((i / 8 == 2) == std::isnan(out[i]));
    }
}

TEST_CASE("cross_attention refuses") {
    const auto changed = [](OpCase c, const std::string& field, std::vector<int64_t> shape) {
        for (Field& f : c.fields)
            if (f.name == field) f.shape = shape;
        return c;
    };
    check_refused(changed(forward({}), "v", {2, 3, 2, 8}), Code::invalid_argument,
                  "v has shape [2, 3, 2, 8], expected [2, 4, 2, 8]");
    check_refused(changed(backward({}), "d_k", {2, 5, 2, 8}), Code::invalid_argument, "d_k has shape");
    check_refused(forward({.D = 257}), Code::invalid_argument, "1 to 256");
    check_refused(forward({.M = 65}), Code::invalid_argument, "1 to 64 latents");
    check_refused(forward({.M = 0}), Code::invalid_argument, "1 to 64 latents");
    OpCase aliased = forward({});
    aliased.run = [](const Tensors& t, Context& context) {
        return cross_attention({.q = t["q"], .k = t["k"], .v = t["v"], .out = t["q"]}, context);
    };
    check_refused(aliased, Code::invalid_argument, "out may not be q");
    aliased = forward({.D = 4});
    aliased.run = [](const Tensors& t, Context& context) {
        return cross_attention({.q = t["q"], .k = t["k"], .v = t["v"], .out = t["out"], .weights = t["q"]}, context);
    };
    check_refused(aliased, Code::invalid_argument, "weights may not be q");
    check_refused(changed(forward({.weights = true}), "weights", {2, 5, 2, 3}), Code::invalid_argument,
                  "weights has shape [2, 5, 2, 3], expected [2, 5, 2, 4]");
    aliased = backward({});
    aliased.run = [](const Tensors& t, Context& context) {
        return cross_attention_backward({.q = t["q"], .k = t["k"], .v = t["v"], .d_out = t["d_out"], .d_q = t["d_out"]},
                                        context);
    };
    check_refused(aliased, Code::invalid_argument, "may not be an input");
}
