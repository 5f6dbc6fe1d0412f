#include <algorithm>
#include <array>
#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Options {
    int64_t kernel = 9;
    float multiplier = 0.3f;
    ConvShape shape = ConvShape::tanh;
    ConvNumerator numerator = ConvNumerator::masked_count;
    ConvScope scope = ConvScope::sequence;
    bool in_place = false;
};

std::string title(int64_t B, int64_t T, int64_t K, const Options& o) {
    return "masked_conv_norm " + std::to_string(B) + "x" + std::to_string(T) + "x" + std::to_string(K) + " kernel " +
           std::to_string(o.kernel) + " shape " + std::to_string(static_cast<int>(o.shape));
}

MaskedConvNorm call(const Tensors& t, const Options& o) {
    return {.masked = t["masked"],
            .rows = t["rows"],
            .lse = t["lse"],
            .p = t[o.in_place ? "p_conv" : "p"],
            .p_conv = t["p_conv"],
            .count = t["count"],
            .s = t["s"],
            .normaliser = t["normaliser"],
            .kernel = o.kernel,
            .multiplier = o.multiplier,
            .shape = o.shape,
            .numerator = o.numerator,
            .scope = o.scope};
}

OpCase whole(int64_t B, int64_t T, int64_t K, Options o) {
    const Fill positive{.scale = 0.01, .shift = 0.2};
    const int64_t S = o.scope == ConvScope::batch ? 1 : B;
    std::vector<Field> fields{ids("masked", {B, T}, 0, 2, DType::u8), output("count", {B, T}), output("s", {B, T}),
                              output("normaliser", {S})};
    if (!o.in_place) fields.push_back(input("p", {B, T, K}, positive));
    fields.push_back(o.in_place ? in_out("p_conv", {B, T, K}, positive) : output("p_conv", {B, T, K}));
    fields[0].contiguous = false;
    OpCase c{title(B, T, K, o), fields, [o](const Tensors& t, Context& c) { return masked_conv_norm(call(t, o), c); }};
    // tanh, expm1 of the C library: an ulp of their own, which S multiplies.
    c.roundings = 16;
    return c;
}

/// Every position 7 i + 2, modulo B T, of the first R: each once while 7 divides no B T.
OpCase some_rows(int64_t B, int64_t T, std::array<int64_t, 2> shape, Options o, bool logits) {
    const auto [R, K] = shape;
    OpCase c = whole(B, T, K, o);
    c.title += " rows " + std::to_string(R);
    for (Field& f : c.fields)
        if (f.name == "p" || f.name == "p_conv") {
            f.shape = {R, K};
            if (logits) f.fill = {};
        }
    c.fields.push_back(ids("rows", {R}, 0, 1));
    for (int64_t r = 0; r < R; ++r) c.fields.back().fill.values.push_back(static_cast<double>((7 * r + 2) % (B * T)));
    if (logits) c.fields.push_back(input("lse", {R}, {.shift = 3}));
    return c;
}

OpCase counts_only(int64_t B, int64_t T, Options o) {
    return {title(B, T, 0, o),
            {ids("masked", {B, T}, 0, 2, DType::u8), output("s", {B, T})},
            [o](const Tensors& t, Context& c) { return masked_conv_norm(call(t, o), c); }};
}

/// Masked flags and p given by hand.
OpCase by_hand(std::vector<double> masked, std::vector<double> p, Options o) {
    const int64_t T = static_cast<int64_t>(masked.size()), K = static_cast<int64_t>(p.size()) / T;
    OpCase c = whole(1, T, K, o);
    for (Field& f : c.fields) {
        if (f.name == "masked") f.fill.values = masked;
        if (f.name == "p") f.fill.values = p;
    }
    return c;
}

}  // namespace

TEST_CASE("masked_conv_norm") {
    for (const ConvShape shape : {ConvShape::tanh, ConvShape::linear, ConvShape::exponential})
        for (const ConvScope scope : {ConvScope::sequence, ConvScope::batch})
            check(whole(3, 37, 5, {.shape = shape, .scope = scope}));
    for (int64_t T : {0, 1, 2, 3, 8, 9, 10, 61}) check(whole(2, T, 3, {.kernel = 9, .multiplier = 0.05f}));
    for (int64_t kernel : {1, 3, 37, 73, 75, 1001}) check(whole(2, 37, 2, {.kernel = kernel}));
    for (int64_t K : {0, 1, 15, 16, 17, 40}) check(whole(2, 19, K, {.numerator = ConvNumerator::masked_mass}));
    check(whole(0, 5, 2, {}));
    check(whole(0, 5, 2, {.scope = ConvScope::batch}));
    check(whole(3, 21, 33000, {.numerator = ConvNumerator::masked_mass, .scope = ConvScope::batch}));
    check(whole(2, 30, 6, {.in_place = true}));
    check(counts_only(2, 50, {.kernel = 5}));
}

TEST_CASE("masked_conv_norm of some rows, of logits") {
    for (const bool logits : {false, true})
        for (const ConvScope scope : {ConvScope::sequence, ConvScope::batch}) {
            for (int64_t R : {0, 1, 40, 111}) check(some_rows(3, 37, {R, 6}, {.scope = scope}, logits));
            for (int64_t K : {0, 1, 16, 17, 300})
                check(some_rows(2, 40, {31, K}, {.numerator = ConvNumerator::masked_mass, .scope = scope}, logits));
            check(some_rows(2, 40, {31, 5}, {.scope = scope, .in_place = true}, logits));
        }
}

TEST_CASE("masked_conv_norm: positions that are not among the rows count as p = 0") {
    const OpCase some = some_rows(2, 19, {11, 4}, {}, false);
    ThreadTeam one(1);
    const Tensors a = make_tensors(some.fields, some.title, false, false);
    REQUIRE(run_on(some, a, "cpu", one).ok());
    const std::vector<double> rows = a.values("rows"), p = a.values("p"), p_conv = a.values("p_conv");
    OpCase all = whole(2, 19, 4, {});
    std::vector<double> filled(2 * 19 * 4);
    for (size_t i = 0; i < p.size(); ++i) filled[static_cast<size_t>(rows[i / 4]) * 4 + i % 4] = p[i];
    for (Field& f : all.fields) {
        if (f.name == "masked") f.fill.values = a.values("masked");
        if (f.name == "p") f.fill.values = filled;
    }
    const Tensors b = make_tensors(all.fields, all.title, false, false);
    REQUIRE(run_on(all, b, "cpu", one).ok());
    CHECK(a.values("normaliser") == b.values("normaliser"));
    for (size_t i = 0; i < p.size(); ++i)
        CHECK(p_conv[i] == b.values("p_conv")[static_cast<size_t>(rows[i / 4]) * 4 + i % 4]);
}

TEST_CASE("masked_conv_norm without text in reach, and without masks") {
    check(by_hand(std::vector<double>(12, 1), std::vector<double>(24, 0.5), {.kernel = 3}));
    check(by_hand(std::vector<double>(12, 0), std::vector<double>(24, 0.5), {.kernel = 3}));
}

// By hand.
TEST_CASE("masked_conv_norm keeps the mass of the masked positions") {
    const Options o{.kernel = 3, .multiplier = 0.5f};
    OpCase c = by_hand({0, 1, 1, 1, 0, 1}, {.1, .2, .3, .4, .5, .1, .2, .2, .6, .1, .7, .2}, o);
    check(c);
    ThreadTeam one(1);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    CHECK(t.values("count") == std::vector<double>{1, 1, 0, 1, 1, 1});
    const double s = std::tanh(0.5), S = 4 / (s * (0.7 + 0.4 + 0.9));
    CHECK(t.values("normaliser")[0] == doctest::Approx(S));
    const std::vector<double> expected{0,          0,          .3 * s * S, .4 * s * S, 0,          0,
                                       .2 * s * S, .2 * s * S, 0,          0,          .7 * s * S, .2 * s * S};
    const std::vector<double> got = t.values("p_conv");
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(expected[i]));
}

// The released code (ybseo-ac/Conv, generate_yb.py) in double: kernel 9, multiplier 1, six candidates per position,
// here with their masses summed.
TEST_CASE("masked_conv_norm against the released code") {
    const std::string masked = "000000111111101111101011111111011111";
    const std::vector<double> mass{0.97005936,  0.802654709, 0.823258235, 0.876217908, 0.696865568, 0.549127788,
                                   0.812619313, 0.800919324, 0.797145122, 0.824419514, 0.80546076,  0.730925743,
                                   0.869460477, 0.847959739, 0.67638624,  0.629624576, 0.830342959, 0.851847183,
                                   0.668771631, 0.64210625,  0.783377319, 0.841930796, 0.943408506, 0.683806913,
                                   0.849394631, 0.841038606};
    std::vector<double> flags, p;
    for (const char c : masked) {
        flags.push_back(c - '0');
        p.push_back(c == '1' ? mass[static_cast<size_t>(std::count(flags.begin(), flags.end(), 1)) - 1] : 1);
    }
    OpCase c = by_hand(flags, p, {.kernel = 9, .multiplier = 1});
    check(c);
    ThreadTeam one(1);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    CHECK(t.values("normaliser")[0] == doctest::Approx(1.5435492341441803).epsilon(1e-6));
    CHECK(t.values("s")[6] == doctest::Approx(0.9993293).epsilon(1e-6));
    CHECK(t.values("s")[8] == doctest::Approx(std::tanh(2)).epsilon(1e-6));
    CHECK(t.values("s")[35] == 0);
}

TEST_CASE("masked_conv_norm: a sequence does not depend on the others") {
    ThreadTeam one(1);
    OpCase both = whole(2, 40, 7, {});
    const Tensors all = make_tensors(both.fields, both.title, false, false);
    REQUIRE(run_on(both, all, "cpu", one).ok());
    OpCase second = whole(1, 40, 7, {});
    for (Field& f : second.fields) {
        if (f.role == Role::output) continue;
        const std::vector<double> values = all.values(f.name);
        f.fill.values.assign(values.begin() + static_cast<int64_t>(values.size()) / 2, values.end());
    }
    const Tensors alone = make_tensors(second.fields, second.title, false, false);
    REQUIRE(run_on(second, alone, "cpu", one).ok());
    const std::vector<double> a = all.values("p_conv"), b = alone.values("p_conv");
    for (size_t i = 0; i < b.size(); ++i) CHECK(a[a.size() / 2 + i] == b[i]);
}

TEST_CASE("masked_conv_norm refuses") {
    check_refused(whole(2, 8, 2, {.kernel = 4}), Code::invalid_argument, "kernel must be odd");
    check_refused(whole(2, 8, 2, {.multiplier = NAN}), Code::invalid_argument, "multiplier");
    OpCase c = whole(2, 8, 2, {});
    c.fields.back() = output("p_conv", {2, 8, 3});
    check_refused(c, Code::invalid_argument, "p_conv has shape [2, 8, 3], expected [2, 8, 2]");
    c.fields.pop_back();
    check_refused(c, Code::invalid_argument, "exactly when p is");
    OpCase n = counts_only(2, 8, {});
    n.fields.push_back(output("normaliser", {2}));
    check_refused(n, Code::invalid_argument, "normaliser needs p");
    OpCase batch = whole(2, 8, 2, {.scope = ConvScope::batch});
    batch.fields[3] = output("normaliser", {2});
    check_refused(batch, Code::invalid_argument, "normaliser has shape [2], expected [1]");
    OpCase rows = some_rows(2, 8, {3, 2}, {}, false);
    rows.fields.back().fill.values = {1, 16, 2};
    check_refused(rows, Code::invalid_argument, "rows[1] is 16, expected 0 to 15");
    OpCase lse = whole(2, 8, 2, {});
    lse.fields.push_back(input("lse", {3}));
    check_refused(lse, Code::invalid_argument, "lse needs rows");
}
