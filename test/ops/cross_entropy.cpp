#include "doctest/doctest.h"
#include "ops/head_cases.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Options {
    bool d_hidden = true, d_weight = true;
    bool weighted = true;
    int64_t excluded = -1;
    Precision precision = Precision::f32;
    double scored = 0.6;  // share of the rows with a target
};

std::vector<double> targets_of(const HeadShape& s, const Options& o) {
    std::vector<double> targets;
    for (int64_t r = 0; r < s.N; ++r) {
        const std::string name = "target" + std::to_string(r);
        int64_t target = choose(name, s.V - (o.excluded >= 0));
        if (o.excluded >= 0 && target >= o.excluded) ++target;
        targets.push_back(static_cast<double>(choose(name + "?", 1000) < 1000 * o.scored ? target : -1 - target));
    }
    return targets;
}

OpCase loss(const HeadShape& s, Options o = {}) {
    std::vector<Field> fields = head_fields(s);
    fields.push_back(ids("targets", {s.N}, 0, s.V));
    fields.back().fill.values = targets_of(s, o);
    if (o.weighted) fields.push_back(input("row_weight", {s.N}));
    fields.push_back(output("loss", {s.N}));
    fields.push_back(output("lse", {s.N}));
    if (o.d_hidden) fields.push_back(output("d_hidden", {s.N, s.C}));
    if (o.d_weight) fields.push_back(in_out("d_weight", {s.V, s.C}));
    if (o.d_weight && s.bias) fields.push_back(in_out("d_bias", {s.V}));
    return {"cross_entropy " + name_of(s) + " precision " + std::to_string(static_cast<int>(o.precision)), fields,
            [o](const Tensors& t, Context& c) {
                return cross_entropy({.hidden = t["hidden"],
                                      .weight = {t["weight"]},
                                      .bias = t["bias"],
                                      .targets = t["targets"],
                                      .row_weight = t["row_weight"],
                                      .loss = t["loss"],
                                      .lse = t["lse"],
                                      .d_hidden = t["d_hidden"],
                                      .d_weight = t["d_weight"],
                                      .d_bias = t["d_bias"],
                                      .excluded_id = o.excluded,
                                      .precision = o.precision},
                                     c);
            }};
}

constexpr Options kForward{.d_hidden = false, .d_weight = false};

}  // namespace

TEST_CASE("cross_entropy: loss") {
    for (int64_t V : {1, 2, 17, 1000, 2048, 2049, 4500}) check(loss({.C = 5, .V = V}, kForward));
    for (int64_t N : {0, 1, 9, 300}) check(loss({.N = N}, kForward));
    Options o = kForward;
    o.precision = Precision::bf16;
    check(loss({.N = 20, .V = 300}, o));
    o.excluded = 4;
    check(loss({.weight = DType::bf16}, o));
}

TEST_CASE("cross_entropy: gradients") {
    for (int64_t V : {1, 2, 17, 1000, 2049}) check(loss({.C = 6, .V = V}));
    for (int64_t N : {0, 1, 8, 40}) check(loss({.N = N, .C = 33, .V = 70, .bias = N % 2 == 0}));
    check(loss({.N = 1100, .C = 3, .V = 9}));
    check(loss({}, {.d_weight = false}));
    check(loss({}, {.d_hidden = false}));
    check(loss({}, {.weighted = false, .scored = 1}));
    check(loss({}, {.scored = 0}));
    check(loss({.N = 12, .C = 40, .V = 130}, {.precision = Precision::bf16}));
    check(loss({.N = 12, .V = 60, .weight = DType::bf16}, {.excluded = 59, .precision = Precision::bf16}));
    check(loss({.N = 7, .V = 60}, {.excluded = 0}));
}

TEST_CASE("cross_entropy: extreme logits") {
    check(loss({.N = 6, .C = 8, .V = 40, .scale = 2000}));
    check(loss({.N = 6, .C = 8, .V = 40, .scale = 0}));
    check(loss({.N = 6, .V = 40, .whole_numbers = true}));
}

TEST_CASE("cross_entropy: gradients against finite differences") {
    for (const int64_t excluded : {-1, 3})
        for (const int64_t V : {2, 5, 30}) {
            if (excluded >= V) continue;
            const HeadShape s{.N = 6, .C = 4, .V = V};
            Options o = kForward;
            o.excluded = excluded;
            const OpCase forward = loss(s, o);
            o.d_hidden = o.d_weight = true;
            OpCase backward = loss(s, o);
            for (const char* name : {"d_weight", "d_bias"}) field_of(backward, name).fill = {.scale = 0};
            check_gradient({forward,
                            backward,
                            {{"loss", "row_weight"}},
                            {{"hidden", "d_hidden"}, {"weight", "d_weight"}, {"bias", "d_bias"}}});
        }
}

TEST_CASE("cross_entropy: values that are not finite give NaN, in their row only") {
    for (const double value : {NAN, INFINITY}) {
        OpCase c = loss({.N = 3, .C = 2, .V = 40}, {.d_weight = false, .scored = 1});
        field_of(c, "hidden").fill.values = {1, 2, value, 1, 3, 1};
        for (const std::string& backend : backends()) {
            const Tensors t = run_alone(c, backend);
            for (const char* name : {"loss", "lse"}) {
                CHECK(std::isnan(t.values(name)[1]));
                CHECK(!std::isnan(t.values(name)[0]));
            }
            CHECK(std::isnan(t.values("d_hidden")[2]));
            CHECK(!std::isnan(t.values("d_hidden")[4]));
        }
    }
}

TEST_CASE("cross_entropy: a row does not depend on the others, nor on whether gradients are formed") {
    const OpCase c = loss({.N = 300, .C = 20, .V = 2500}, {.d_weight = false});
    OpCase forward = loss({.N = 300, .C = 20, .V = 2500}, kForward);
    forward.title = c.title;
    for (const std::string& backend : backends()) {
        INFO("backend ", backend);
        const Tensors batch = run_alone(c, backend);
        for (const int64_t row : {0, 7, 255, 256, 299}) CHECK(row_difference(c, batch, 300, row, backend) == "");
        CHECK(run_alone(forward, backend).values("loss") == batch.values("loss"));
    }
}

// Tiles of 128; chunks of 8192 rows and of 8192 tokens; bf16 weights that can be copied as they are, others.
TEST_CASE("cross_entropy on the edges of a device's tiles and chunks") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const Options o{.precision = precision};
        for (int64_t N : {128, 213}) check(loss({.N = N, .C = 9, .V = 20}, o));
        for (int64_t V : {127, 129}) check(loss({.N = 20, .C = 17, .V = V, .bias = V % 2 == 0}, o));
        for (int64_t C : {40, 130}) check(loss({.N = 20, .C = C, .V = 30, .weight = DType::bf16}, o));
        check(loss({.N = 2, .C = 8, .V = 8300}, {.excluded = 8250, .precision = precision}));
    }
    check(loss({.N = 8200, .C = 2, .V = 3, .bias = false}, {.scored = 1}));
}

TEST_CASE("cross_entropy refuses") {
    OpCase c = loss({.V = 20}, kForward);
    field_of(c, "targets").fill.values = {0, 1, 20, -1, 2};
    check_refused(c, Code::invalid_argument, "targets[2] is 20");
    Options o = kForward;
    o.excluded = 3;
    c = loss({.V = 20}, o);
    field_of(c, "targets").fill.values = {0, 3, 19, -1, 2};
    check_refused(c, Code::invalid_argument, "targets may not name the excluded id");
    c = loss({.bias = false});
    c.fields.push_back(in_out("d_bias", {50}));
    check_refused(c, Code::invalid_argument, "d_bias needs bias");
    c = loss({});
    field_of(c, "d_weight").shape = {50, 11};
    check_refused(c, Code::invalid_argument, "d_weight has shape [50, 11], expected [50, 12]");
}
