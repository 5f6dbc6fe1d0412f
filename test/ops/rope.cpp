#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Shape {
    int64_t B, T, H, D;
};

std::string name_of(Shape s) {
    return "rope " + std::to_string(s.B) + "x" + std::to_string(s.T) + "x" + std::to_string(s.H) + "x" +
           std::to_string(s.D);
}

OpCase turned(Shape s, Rope options, bool given = false) {
    OpCase c{name_of(s) + (options.layout == RopeLayout::half_split ? " halves" : " pairs"),
             {input("x", {s.B, s.T, s.H, s.D}), output("y", {s.B, s.T, s.H, s.D})},
             [options](const Tensors& t, Context& context) {
                 Rope p = options;
                 p.x = t["x"];
                 p.y = t["y"];
                 p.positions = t["positions"];
                 return rope(p, context);
             }};
    if (given) c.fields.push_back(ids("positions", {s.B, s.T}, -50, 40000));
    return c;
}

OpCase in_place(Shape s, Rope options) {
    OpCase c = turned(s, options);
    c.fields = {in_out("x", {s.B, s.T, s.H, s.D})};
    c.run = [options](const Tensors& t, Context& context) {
        Rope p = options;
        p.x = p.y = t["x"];
        return rope(p, context);
    };
    return c;
}

/// [B,T,H,D] as attention keeps it: heads outside positions.
View heads_first(const View& v) {
    View w = v;
    std::swap(w.shape[1], w.shape[2]);
    std::swap(w.stride[1], w.stride[2]);
    return w;
}

std::vector<double> turn(const std::vector<double>& x, int64_t T, int64_t offset, RopeLayout layout) {
    OpCase c{"row",
             {input("x", {1, T, 1, 64}, {.values = x}), output("y", {1, T, 1, 64})},
             [&](const Tensors& t, Context& context) {
                 return rope({.x = t["x"], .y = t["y"], .position_offset = offset, .layout = layout}, context);
             }};
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    ThreadTeam one(1);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    return t.values("y");
}

}  // namespace

TEST_CASE("rope") {
    for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::adjacent_pairs}) {
        for (int64_t D : {0, 2, 6, 16, 34, 64, 66}) check(turned({2, 3, 2, D}, {.layout = layout}));
        for (int64_t T : {0, 1, 15, 16, 17, 64, 65, 131}) check(turned({2, T, 1, 6}, {.layout = layout}));
        for (int64_t T : {1, 5, 70}) check(turned({2, T, 2, 10}, {.layout = layout}, true));
        for (int64_t D : {510, 512, 514, 1040}) check(turned({1, 3, 2, D}, {.layout = layout}));
        check(turned({0, 3, 2, 8}, {.layout = layout}));
        check(turned({1, 3, 0, 8}, {.layout = layout}));
        check(turned({1, 9, 2, 32}, {.position_offset = 100003, .theta = 1e6, .layout = layout}));
        check(turned({1, 9, 2, 32}, {.position_offset = -5, .layout = layout, .inverse = true}));
        check(in_place({2, 67, 3, 20}, {.layout = layout}));
        check(in_place({2, 5, 3, 20}, {.layout = layout, .inverse = true}));
    }
}

TEST_CASE("rope takes any strides") {
    OpCase c{"rope heads first",
             {input("x", {2, 3, 7, 12}), output("y", {2, 7, 3, 12})},
             [](const Tensors& t, Context& context) {
                 return rope({.x = heads_first(t["x"]), .y = t["y"], .layout = RopeLayout::adjacent_pairs}, context);
             }};
    check(c);
}

TEST_CASE("rope: the gradient is the inverse turn") {
    for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::adjacent_pairs}) {
        const OpCase forward = turned({2, 3, 2, 6}, {.layout = layout});
        OpCase backward{"rope inverse",
                        {input("d_y", {2, 3, 2, 6}), output("d_x", {2, 3, 2, 6})},
                        [layout](const Tensors& t, Context& c) {
                            return rope({.x = t["d_y"], .y = t["d_x"], .layout = layout, .inverse = true}, c);
                        }};
        check_gradient({forward, backward, {{"y", "d_y"}}, {{"x", "d_x"}}});
    }
}

TEST_CASE("rope: a position's row does not depend on the call it is in") {
    const int64_t T = 150, D = 64;
    std::vector<double> x(T * D);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7 * i);
    for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::adjacent_pairs}) {
        const std::vector<double> all = turn(x, T, 1000, layout);
        for (int64_t t : {0, 1, 64, 149}) {
            const std::vector<double> row(x.begin() + t * D, x.begin() + (t + 1) * D);
            const std::vector<double> alone = turn(row, 1, 1000 + t, layout);
            CHECK(std::equal(alone.begin(), alone.end(), all.begin() + t * D));
        }
    }
}

TEST_CASE("rope refuses") {
    check_refused(turned({1, 2, 2, 5}, {}), Code::invalid_argument, "even last axis");
    check_refused(turned({1, 2, 2, 4}, {.theta = 0}), Code::invalid_argument, "theta");
    OpCase c = turned({1, 2, 2, 4}, {}, true);
    c.fields.back() = ids("positions", {1, 3}, 0, 9);
    check_refused(c, Code::invalid_argument, "positions has shape [1, 3], expected [1, 2]");
    c = turned({1, 2, 2, 4}, {});
    c.fields.back() = output("y", {1, 2, 2, 6});
    check_refused(c, Code::invalid_argument, "y has shape [1, 2, 2, 6], expected [1, 2, 2, 4]");
    OpCase swapped{"rope strides", {in_out("x", {1, 3, 3, 4})}, [](const Tensors& t, Context& context) {
                       return rope({.x = t["x"], .y = heads_first(t["x"])}, context);
                   }};
    check_refused(swapped, Code::invalid_argument, "strides");
}
