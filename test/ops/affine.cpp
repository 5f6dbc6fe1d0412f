#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

std::string size_of(int64_t R, int64_t c) {
    return std::to_string(R) + "x" + std::to_string(c);
}

/// `outputs` and `gradients`: which of the three optional ones take part, a bit each.
OpCase forward(int64_t R, int64_t c, int outputs = 7, double scale = 1.0) {
    OpCase k{"affine " + size_of(R, c) + " outputs " + std::to_string(outputs),
             {input("h", {R, c}), input("parameters", {R, 2 * c}, {.scale = scale})},
             [](const Tensors& t, Context& context) {
                 return affine({.h = t["h"],
                                .parameters = t["parameters"],
                                .u = t["u"],
                                .log_density = t["log_density"],
                                .log_det = t["log_det"]},
                               context);
             }};
    if (outputs & 1) k.fields.push_back(output("u", {R, c}));
    if (outputs & 2) k.fields.push_back(output("log_density", {R}));
    if (outputs & 4) k.fields.push_back(output("log_det", {R}));
    return k;
}

OpCase backward(int64_t R, int64_t c, int gradients = 7, double scale = 1.0) {
    OpCase k{"affine_backward " + size_of(R, c) + " gradients " + std::to_string(gradients),
             {input("h", {R, c}), input("parameters", {R, 2 * c}, {.scale = scale}), output("d_h", {R, c}),
              output("d_parameters", {R, 2 * c})},
             [](const Tensors& t, Context& context) {
                 return affine_backward({.h = t["h"],
                                         .parameters = t["parameters"],
                                         .d_u = t["d_u"],
                                         .d_log_density = t["d_log_density"],
                                         .d_log_det = t["d_log_det"],
                                         .d_h = t["d_h"],
                                         .d_parameters = t["d_parameters"]},
                                        context);
             }};
    if (gradients & 1) k.fields.push_back(input("d_u", {R, c}));
    if (gradients & 2) k.fields.push_back(input("d_log_density", {R}));
    if (gradients & 4) k.fields.push_back(input("d_log_det", {R}));
    return k;
}

OpCase inverse(int64_t R, int64_t c, double scale = 1.0) {
    return {"affine_inverse " + size_of(R, c),
            {input("u", {R, c}), input("parameters", {R, 2 * c}, {.scale = scale}), output("h", {R, c})},
            [](const Tensors& t, Context& context) {
                return affine_inverse({.u = t["u"], .parameters = t["parameters"], .h = t["h"]}, context);
            }};
}

constexpr int64_t kWidths[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 130};

}  // namespace

TEST_CASE("affine") {
    for (const int64_t c : kWidths) check(forward(7, c));
    for (const int64_t R : {0, 1, 2, 3, 64, 65}) check(forward(R, 5));
    for (int outputs = 0; outputs < 7; ++outputs)
        for (const int64_t c : {5, 20}) check(forward(4, c, outputs));
    check(forward(3300, 5));  // several tasks
    for (const int64_t c : {5, 16}) {
        check(forward(40, c, 7, 30));  // log-scales near 4 and -4
        check(forward(40, c, 7, 1e-6));
        check(forward(4, c, 7, 1e30));
    }
}

TEST_CASE("affine_backward") {
    for (const int64_t c : kWidths) check(backward(7, c));
    for (const int64_t R : {0, 1, 2, 3, 64, 65}) check(backward(R, 5));
    for (int gradients = 0; gradients < 7; ++gradients)
        for (const int64_t c : {5, 20}) check(backward(4, c, gradients));
    for (const int64_t c : {5, 16}) check(backward(40, c, 7, 30));
    for (int parts = 1; parts < 8; ++parts) {
        GradientCase g{forward(3, 4, parts), backward(3, 4, parts), {}, {{"h", "d_h"}, {"parameters", "d_parameters"}}};
        if (parts & 1) g.upstream.push_back({"u", "d_u"});
        if (parts & 2) g.upstream.push_back({"log_density", "d_log_density"});
        if (parts & 4) g.upstream.push_back({"log_det", "d_log_det"});
        check_gradient(g);
    }
}

TEST_CASE("affine_inverse") {
    for (const int64_t c : kWidths) check(inverse(7, c));
    for (const int64_t R : {0, 1, 2, 3, 64, 65}) check(inverse(R, 5));
    for (const int64_t c : {5, 16}) check(inverse(40, c, 30));
    for (const int64_t c : {5, 21}) {
        OpCase k = inverse(7, c);
        k.title += " in place";
        k.fields = {in_out("u", {7, c}), input("parameters", {7, 2 * c})};
        k.run = [](const Tensors& t, Context& context) {
            return affine_inverse({.u = t["u"], .parameters = t["parameters"], .h = t["u"]}, context);
        };
        check(k);
    }
}

TEST_CASE("affine: a row's result does not depend on its neighbours") {
    for (const int64_t c : {3, 5, 8, 20}) {
        const OpCase many = forward(9, c);
        const auto compare = [&](const auto& run) {
            const Tensors all = run(many);
            for (const int64_t r : {0, 1, 4, 8}) {
                OpCase one = forward(1, c);
                const auto row = [&](const char* name, int64_t n) {
                    const std::vector<double> values = all.values(name);
                    return std::vector<double>(values.begin() + r * n, values.begin() + (r + 1) * n);
                };
                one.fields[0].fill.values = row("h", c);
                one.fields[1].fill.values = row("parameters", 2 * c);
                const Tensors alone = run(one);
                for (const auto& [name, n] : {std::pair{"u", c}, {"log_density", int64_t{1}}, {"log_det", int64_t{1}}})
                    CHECK(alone.values(name) == row(name, n));
            }
        };
        EachIsa isas;
        for (const std::string& isa : isas.names) {
            EachIsa::use(isa);
            compare([](const OpCase& k) {
                ThreadTeam team(1);
                Tensors t = make_tensors(k.fields, k.title, false, false);
                REQUIRE(run_on(k, t, "cpu", team).ok());
                return t;
            });
        }
        for (const std::string& device : devices())
            compare([&](const OpCase& k) {
                Tensors t = make_tensors(k.fields, k.title, false, false);
                REQUIRE(run_on_device(k, t, device_engine(device)).ok());
                return t;
            });
    }
}

TEST_CASE("affine keeps what is no number") {
    for (const int64_t c : {5, 20}) {
        OpCase k = forward(2, c);
        k.fields[0].fill.values.assign(2 * c, 1.0);
        k.fields[1].fill.values.assign(4 * c, 0.5);
        k.fields[0].fill.values[0] = NAN;
        k.fields[1].fill.values[1] = NAN;
        k.fields[1].fill.values[2] = INFINITY;
        k.fields[1].fill.values[c + 3] = -INFINITY;
        check(k);
    }
}

TEST_CASE("affine refuses") {
    OpCase k = forward(2, 8);
    k.fields[1] = input("parameters", {2, 8});
    check_refused(k, Code::invalid_argument, "parameters has shape [2, 8], expected [2, 16]");
    k = forward(2, 8);
    k.fields[3] = output("log_density", {3});
    check_refused(k, Code::invalid_argument, "log_density has shape [3], expected [2]");
    k = backward(2, 8);
    k.fields[3] = output("d_parameters", {2, 15});
    check_refused(k, Code::invalid_argument, "d_parameters has shape [2, 15], expected [2, 16]");
    k = inverse(2, 8);
    k.fields[2] = output("h", {2, 9});
    check_refused(k, Code::invalid_argument, "h has shape [2, 9], expected [2, 8]");
}
