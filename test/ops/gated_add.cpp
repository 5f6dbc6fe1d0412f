#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Shape {
    int64_t R, C, per_sequence;
    int64_t B() const { return (R + per_sequence - 1) / per_sequence; }
};

std::string size_of(Shape s) {
    return std::to_string(s.R) + "x" + std::to_string(s.C) + " by " + std::to_string(s.per_sequence);
}

OpCase forward(Shape s) {
    return {"gated_add " + size_of(s),
            {input("x", {s.R, s.C}), input("f", {s.R, s.C}), input("gate", {s.B(), s.C}), output("y", {s.R, s.C})},
            [s](const Tensors& t, Context& c) {
                return gated_add({.x = t["x"],
                                  .f = t["f"],
                                  .gate = t["gate"],
                                  .y = t["y"] ? t["y"] : t["x"],
                                  .rows_per_sequence = s.per_sequence},
                                 c);
            }};
}

OpCase backward(Shape s, bool with_gate = true) {
    OpCase c{"gated_add_backward " + size_of(s),
             {input("f", {s.R, s.C}), input("gate", {s.B(), s.C}), input("d_y", {s.R, s.C}), output("d_f", {s.R, s.C}),
              output("d_gate", {s.B(), s.C})},
             [s](const Tensors& t, Context& c) {
                 return gated_add_backward({.f = t["f"],
                                            .gate = t["gate"],
                                            .d_y = t["d_y"],
                                            .d_f = t["d_f"],
                                            .d_gate = t["d_gate"],
                                            .rows_per_sequence = s.per_sequence},
                                           c);
             }};
    if (!with_gate) c.fields.pop_back();
    return c;
}

}  // namespace

TEST_CASE("gated_add") {
    for (int64_t C : awkward_sizes(65)) check(forward({6, C, 2}));
    for (int64_t R : {0, 1, 7, 64}) check(forward({R, 40, 3}));
    check(forward({5, 8, int64_t{1} << 60}));
    OpCase c = forward({6, 33, 3});
    c.fields.pop_back();
    c.fields[0].role = Role::in_out;
    check(c);
}

TEST_CASE("gated_add_backward") {
    for (int64_t C : awkward_sizes(65)) check(backward({6, C, 2}));
    for (int64_t R : {0, 1, 31, 32, 33, 100}) check(backward({R, 20, 40}));
    for (int64_t per_sequence : {1, 31, 32, 33, 64, 65}) check(backward({130, 9, per_sequence}));
    check(backward({10, 600, 5}));
    for (int64_t C : {124, 128, 132}) check(backward({70, C, 40}));
    check(backward({4200, 12, 4100}));
    check(backward({10, 8, 5}, false));
    check_gradient({forward({6, 5, 3}), backward({6, 5, 3}), {{"y", "d_y"}}, {{"f", "d_f"}, {"gate", "d_gate"}}});
}

TEST_CASE("gated_add refuses") {
    OpCase c = forward({6, 8, 3});
    c.fields[2] = input("gate", {3, 8});
    check_refused(c, Code::invalid_argument, "gate has shape [3, 8], expected [2, 8]");
    c = forward({6, 8, 3});
    c.run = [](const Tensors& t, Context& context) {
        return gated_add({.x = t["x"], .f = t["f"], .gate = t["gate"], .y = t["y"], .rows_per_sequence = 0}, context);
    };
    check_refused(c, Code::invalid_argument, "rows_per_sequence must be positive");
}
