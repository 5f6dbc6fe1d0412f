#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

OpCase step(int64_t n, AdamW options, bool average = false, double norm = 0) {
    OpCase c{"adamw " + std::to_string(n) + " step " + std::to_string(options.step),
             {in_out("parameter", {n}), input("gradient", {n}, {.scale = 0.3}), in_out("m", {n}, {.scale = 0.1}),
              in_out("v", {n}, {.values = std::vector<double>(n, 0.04)})},
             [options](const Tensors& t, Context& context) {
                 AdamW p = options;
                 p.parameter = t["parameter"];
                 p.gradient = t["gradient"];
                 p.m = t["m"];
                 p.v = t["v"];
                 p.average = t["average"];
                 p.norm = t["norm"];
                 p.schedule = t["schedule"];
                 return adamw(p, context);
             }};
    if (average) c.fields.push_back(in_out("average", {n}));
    if (norm) c.fields.push_back(input("norm", {1}, {.values = {norm}}));
    return c;
}

/// The same step, told by a schedule; rate and step of the call itself are nonsense then.
OpCase scheduled(int64_t n, AdamW options, bool average = false, double norm = 0) {
    const auto unbias = [&](float beta) { return 1.0 / (1.0 - std::pow(double{beta}, double(options.step))); };
    const std::vector<double> values = {options.rate, unbias(options.beta1), unbias(options.beta2)};
    options.rate = NAN;
    options.step = -7;
    OpCase c = step(n, options, average, norm);
    c.fields.push_back(input("schedule", {3}, {.values = values}));
    return c;
}

double one_value(const OpCase& c, const std::string& name) {
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    ThreadTeam one(1);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    return t.values(name)[0];
}

}  // namespace

TEST_CASE("adamw") {
    for (int64_t n : awkward_sizes(131)) check(step(n, {.rate = 0.01f, .weight_decay = 0.1f, .step = 3}));
    for (int64_t n : {16383, 16384, 16385, 40000}) check(step(n, {.rate = 0.01f, .step = 100}, true));
    check(step(100, {.rate = 0.01f, .ema_decay = 0.999f, .step = 1}, true));
    check(step(100, {.max_norm = 1, .gradient_scale = 0.125f, .rate = 0.01f, .step = 2}, false, 4.0));
    check(step(100, {.max_norm = 1, .gradient_scale = 0.125f, .rate = 0.01f, .step = 2}, false, 0.5));  // not clipped
    check(step(100, {.max_norm = 0, .rate = 0.01f, .step = 2}, false, 4.0));                            // no clipping
    check(step(100, {.rate = 0.01f, .beta1 = 0, .beta2 = 0.95f, .epsilon = 1e-3f, .step = 1000000}));
}

TEST_CASE("adamw takes rate and step from a schedule") {
    for (int64_t n : {1, 37, 20000})
        check(scheduled(n, {.rate = 0.01f, .weight_decay = 0.1f, .ema_decay = 0.9f, .step = 3}, true));
    const AdamW options = {.max_norm = 1, .gradient_scale = 0.125f, .rate = 0.01f, .step = 2};
    OpCase told = scheduled(50, options, false, 4.0), direct = step(50, options, false, 4.0);
    told.title = direct.title;
    const Tensors a = make_tensors(told.fields, told.title, false, false);
    const Tensors b = make_tensors(direct.fields, direct.title, false, false);
    ThreadTeam one(1);
    REQUIRE(run_on(told, a, "cpu", one).ok());
    REQUIRE(run_on(direct, b, "cpu", one).ok());
    for (const char* name : {"parameter", "m", "v"}) CHECK(a.values(name) == b.values(name));
}

TEST_CASE("adamw: a norm that is not finite changes nothing") {
    for (const double norm : {double{NAN}, double{INFINITY}, -double{INFINITY}})
        for (const float max_norm : {0.0f, 1.0f}) {
            OpCase c = step(40, {.max_norm = max_norm, .rate = 0.01f, .ema_decay = 0.5f, .step = 2}, true, norm);
            c.fields[1].fill.values.assign(40, norm);
            c.judge = [c](const Tensors&, const Tensors& measured) -> std::string {
                const Tensors before = make_tensors(c.fields, c.title, false, false);
                for (const char* name : {"parameter", "m", "v", "average"})
                    if (measured.values(name) != before.values(name)) return std::string(name) + " changed";
                return "";
            };
            check(c);
            c.judge = {};  // the reference, too: the two-error rule compares with it
            check(c);
        }
}

TEST_CASE("adamw: the first step moves by the rate, whatever the gradient's size") {
    for (const double g : {1e-4, 1.0, -1e4}) {
        OpCase c = step(1, {.rate = 0.125f, .step = 1});
        c.fields[0].fill.values = {1.0};
        c.fields[1].fill.values = {g};
        c.fields[2].fill.values = {0.0};
        c.fields[3].fill.values = {0.0};
        CHECK(one_value(c, "parameter") == doctest::Approx(1 - std::copysign(0.125, g)).epsilon(1e-4));
    }
}

TEST_CASE("adamw clips a gradient of zero norm to itself") {
    OpCase c = step(1, {.max_norm = 1, .rate = 0.1f, .step = 1});
    c.fields.push_back(input("norm", {1}, {.values = {0.0}}));
    c.fields[0].fill.values = {1.0};
    for (int i : {1, 2, 3}) c.fields[i].fill.values = {0.0};
    CHECK(one_value(c, "parameter") == 1.0);
}

TEST_CASE("adamw refuses") {
    check_refused(step(4, {.max_norm = 1}), Code::invalid_argument, "norm is needed for max_norm");
    check_refused(step(4, {.beta1 = 1}), Code::invalid_argument, "beta1");
    check_refused(step(4, {.beta2 = -0.1f}), Code::invalid_argument, "beta2");
    check_refused(step(4, {.epsilon = 0}), Code::invalid_argument, "epsilon");
    check_refused(step(4, {.step = 0}), Code::invalid_argument, "step counts from 1");
    OpCase bad = scheduled(4, {.step = 1});
    bad.fields.back() = input("schedule", {2});
    check_refused(bad, Code::invalid_argument, "schedule has shape [2], expected [3]");
    OpCase c = step(4, {});
    c.fields[2] = in_out("m", {5});
    check_refused(c, Code::invalid_argument, "m has shape [5], expected [4]");
}
