#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Shape {
    int64_t R, c, E;
    std::string text() const { return std::to_string(R) + "x" + std::to_string(c) + " features " + std::to_string(E); }
};

OpCase forward(Shape s, double scale = 1.0) {
    return {"maf_features " + s.text(),
            {input("x", {s.R, s.c}, {.scale = scale}), contiguous(input("weight", {s.c - 1, s.E, 3})),
             contiguous(input("bias", {s.c - 1, s.E}, {.scale = 0.3})), output("y", {s.R, (s.c - 1) * s.E})},
            [](const Tensors& t, Context& context) {
                return maf_features({.x = t["x"], .weight = t["weight"], .bias = t["bias"], .y = t["y"]}, context);
            }};
}

OpCase backward(Shape s, double scale = 1.0) {
    return {"maf_features_backward " + s.text(),
            {input("x", {s.R, s.c}, {.scale = scale}), contiguous(input("weight", {s.c - 1, s.E, 3})),
             contiguous(input("bias", {s.c - 1, s.E}, {.scale = 0.3})), input("d_y", {s.R, (s.c - 1) * s.E}),
             in_out("d_x", {s.R, s.c}), contiguous(in_out("d_weight", {s.c - 1, s.E, 3})),
             contiguous(in_out("d_bias", {s.c - 1, s.E}))},
            [](const Tensors& t, Context& context) {
                return maf_features_backward({.x = t["x"],
                                              .weight = t["weight"],
                                              .bias = t["bias"],
                                              .d_y = t["d_y"],
                                              .d_x = t["d_x"],
                                              .d_weight = t["d_weight"],
                                              .d_bias = t["d_bias"]},
                                             context);
            }};
}

std::vector<Shape> shapes(int64_t R) {
    std::vector<Shape> all;
    for (const int64_t E : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 96})
        for (const int64_t c : {2, 5, 18}) all.push_back({R, c, E});
    for (const int64_t c : {3, 17, 64, 65, 66, 67, 130}) all.push_back({R, c, 2});
    all.push_back({R, 3, 256});
    return all;
}

}  // namespace

TEST_CASE("maf_features") {
    for (const Shape& s : shapes(3)) check(forward(s));
    for (const int64_t R : {0, 1, 7, 8, 9, 17, 70}) check(forward({R, 6, 4}));
    check(forward({3, 6, 0}));
    check(forward({4, 9, 4}, 30));
    check(forward({4, 9, 4}, 1e-20));
    check(forward({4, 9, 4}, 1e30));
}

TEST_CASE("maf_features_backward") {
    for (const Shape& s : shapes(3)) check(backward(s));
    for (const int64_t R : {0, 1, 7, 8, 9, 31, 33, 70}) check(backward({R, 6, 4}));
    check(backward({4200, 3, 2}));
    check(backward({3, 6, 0}));
    check(backward({4, 9, 4}, 30));
    check(backward({4, 9, 4}, 1e-20));
    for (const int64_t E : {1, 3, 20}) {
        const Shape s{3, 4, E};
        OpCase b = backward(s);
        for (Field& f : b.fields)
            if (f.role == Role::in_out) f.fill.scale = 0;
        check_gradient(
            {forward(s), b, {{"y", "d_y"}}, {{"x", "d_x"}, {"weight", "d_weight"}, {"bias", "d_bias"}}, 1e-6, 1e-5});
    }
}

TEST_CASE("maf_features: elu is right to 3 units in the last place, near zero too") {
    std::vector<double> x;
    for (double v = 1e-30; v < 100; v *= 1.07) {
        x.push_back(static_cast<float>(-v));
        x.push_back(static_cast<float>(v));
    }
    // d_weight is elu itself where the upstream gradient and gelu's slope are 1.
    const int64_t n = static_cast<int64_t>(x.size());
    OpCase k = backward({1, n + 1, 1});
    x.push_back(0);
    k.fields[0].fill.values = x;
    k.fields[1].fill.values.assign(3 * n, 0.0);
    k.fields[2].fill.values.assign(n, 20.0);  // gelu's slope is 1 there
    k.fields[3].fill.values.assign(n, 1.0);
    for (size_t i = 4; i < 7; ++i) k.fields[i].fill.scale = 0;
    k.judge = [n, x](const Tensors&, const Tensors& t) -> std::string {
        const std::vector<double> d = t.values("d_weight");
        for (int64_t i = 0; i < n; ++i)
            for (const int side : {1, 2}) {
                const double at = side == 1 ? x[i] : -x[i], truth = at > 0 ? at : std::expm1(at);
                const double ulps = std::fabs(d[3 * i + side] / truth - 1) * 0x1p23;
                if (!(ulps <= 3)) return std::to_string(ulps) + " ulp at " + std::to_string(at);
            }
        return "";
    };
    check(k);
}

TEST_CASE("maf_features refuses") {
    OpCase k = forward({2, 5, 4});
    k.fields[1] = input("weight", {5, 4, 3});
    check_refused(k, Code::invalid_argument, "weight has shape [5, 4, 3], expected [4, 4, 3]");
    check_refused(forward({2, 2, 257}), Code::invalid_argument, "weight has more than 256 features per scalar");
    k = forward({2, 2, 4});
    k.fields[0] = input("x", {2, 1});
    check_refused(k, Code::invalid_argument, "x must have at least 2 columns");
    k = backward({2, 5, 4});
    k.run = [](const Tensors& t, Context& context) {
        View gaps = t["d_weight"];
        gaps.stride[0] += 1;
        return maf_features_backward({.x = t["x"],
                                      .weight = t["weight"],
                                      .bias = t["bias"],
                                      .d_y = t["d_y"],
                                      .d_x = t["d_x"],
                                      .d_weight = gaps,
                                      .d_bias = t["d_bias"]},
                                     context);
    };
    check_refused(k, Code::invalid_argument, "d_weight must be without gaps");
}
