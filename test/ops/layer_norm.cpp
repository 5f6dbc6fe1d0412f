#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Options {
    bool weight = true;
    bool bias = true;
    bool scale = false;
    int64_t per_sequence = 1;
    bool saved = true;
    bool accumulate = false;
};

std::string title(const std::string& op, int64_t R, int64_t C, Options o) {
    return op + " " + std::to_string(R) + "x" + std::to_string(C) + (o.weight ? " weight" : "") +
           (o.bias ? " bias" : "") + (o.scale ? " scale by " + std::to_string(o.per_sequence) : "");
}

int64_t sequences(int64_t R, Options o) {
    return o.per_sequence ? (R + o.per_sequence - 1) / o.per_sequence : 0;
}

OpCase forward(int64_t R, int64_t C, Options o, Fill fill = {}) {
    OpCase c{title("layer_norm", R, C, o),
             {input("x", {R, C}, fill), output("y", {R, C})},
             [o](const Tensors& t, Context& context) {
                 return layer_norm({.x = t["x"],
                                    .weight = t["weight"],
                                    .bias = t["bias"],
                                    .scale = t["scale"],
                                    .shift = t["shift"],
                                    .y = t["y"] ? t["y"] : t["x"],
                                    .mean = t["mean"],
                                    .inv_std = t["inv_std"],
                                    .rows_per_sequence = o.per_sequence},
                                   context);
             }};
    if (o.weight) c.fields.push_back(input("weight", {C}, {.scale = 0.3, .shift = 1}));
    if (o.bias) c.fields.push_back(input("bias", {C}));
    if (o.scale) c.fields.push_back(input("scale", {sequences(R, o), C}, {.scale = 0.3}));
    if (o.scale) c.fields.push_back(input("shift", {sequences(R, o), C}));
    if (o.saved) c.fields.push_back(output("mean", {R}));
    if (o.saved) c.fields.push_back(output("inv_std", {R}));
    return c;
}

OpCase backward(int64_t R, int64_t C, Options o, double parameters = 1.0) {
    OpCase c{title("layer_norm_backward", R, C, o),
             {input("x", {R, C}), input("d_y", {R, C}), input("mean", {R}, {.scale = 0.1}),
              input("inv_std", {R}, {.scale = 0.1, .shift = 1}),
              o.accumulate ? in_out("d_x", {R, C}) : output("d_x", {R, C})},
             [o](const Tensors& t, Context& context) {
                 return layer_norm_backward({.x = t["x"],
                                             .weight = t["weight"],
                                             .bias = t["bias"],
                                             .scale = t["scale"],
                                             .mean = t["mean"],
                                             .inv_std = t["inv_std"],
                                             .d_y = t["d_y"],
                                             .d_x = t["d_x"],
                                             .d_weight = t["d_weight"],
                                             .d_bias = t["d_bias"],
                                             .d_scale = t["d_scale"],
                                             .d_shift = t["d_shift"],
                                             .rows_per_sequence = o.per_sequence,
                                             .accumulate_x = o.accumulate},
                                            context);
             }};
    const int64_t B = sequences(R, o);
    if (o.weight) c.fields.push_back(input("weight", {C}, {.scale = 0.3, .shift = 1}));
    if (o.bias) c.fields.push_back(input("bias", {C}));
    if (o.scale) c.fields.push_back(input("scale", {B, C}, {.scale = 0.3}));
    if (o.weight) c.fields.push_back(in_out("d_weight", {C}, {.scale = parameters}));
    if (o.bias) c.fields.push_back(in_out("d_bias", {C}, {.scale = parameters}));
    if (o.scale) c.fields.push_back(output("d_scale", {B, C}));
    if (o.scale) c.fields.push_back(output("d_shift", {B, C}));
    return c;
}

/// Every combination of weight, bias and adaLN.
std::vector<Options> combinations(int64_t per_sequence) {
    std::vector<Options> all;
    for (int i = 0; i < 8; ++i)
        all.push_back(
            {.weight = (i & 1) != 0, .bias = (i & 2) != 0, .scale = (i & 4) != 0, .per_sequence = per_sequence});
    return all;
}

std::vector<double> rows_of(const std::vector<double>& x, int64_t C) {
    OpCase c = forward(static_cast<int64_t>(x.size()) / C, C, {});
    c.title = "rows";
    c.fields[0].fill.values = x;
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    ThreadTeam two(2);
    REQUIRE(run_on(c, t, "cpu", two).ok());
    return t.values("y");
}

}  // namespace

TEST_CASE("layer_norm") {
    for (int64_t C : awkward_sizes(257))
        if (C > 0) check(forward(3, C, {}));
    for (const Options& o : combinations(2)) check(forward(5, 37, o));
    for (int64_t R : {0, 1, 70}) check(forward(R, 300, {.scale = true, .per_sequence = 7, .saved = false}));
    for (int64_t C : {260, 1024, 1025, 1028, 4096, 4100, 8192, 8196, 9001})
        check(forward(2, C, {.scale = true}, {.shift = 1}));
    check(forward(3, 64, {}, {.scale = 1e-12}));  // epsilon carries the row
    check(forward(3, 64, {}, {.scale = 1e12}));
    check(forward(3, 64, {}, {.scale = 1, .shift = 1000}));  // a mean far from zero
    OpCase c = forward(3, 33, {});
    c.fields.erase(c.fields.begin() + 1);
    c.fields[0].role = Role::in_out;
    check(c);
}

TEST_CASE("layer_norm_backward") {
    for (int64_t C : {1, 7, 16, 33, 130}) check(backward(5, C, {.accumulate = C % 2 == 1}));
    for (const Options& o : combinations(2)) check(backward(5, 37, o));
    for (int64_t R : {0, 1, 32, 33, 100, 4200}) check(backward(R, 24, {}));
    for (int64_t C : {260, 1024, 1025, 1028, 4096, 4100, 8192, 8196, 9001})
        check(backward(11, C, {.scale = true, .per_sequence = 10, .accumulate = C % 8 == 0}));
    OpCase frozen = backward(9, 40, {});
    frozen.fields.resize(frozen.fields.size() - 2);  // d_weight, d_bias
    check(frozen);
    for (int64_t per_sequence : {1, 32, 33, 70}) check(backward(140, 9, {.scale = true, .per_sequence = per_sequence}));
    for (const Options& o : combinations(2)) {
        std::vector<std::pair<std::string, std::string>> gradients{{"x", "d_x"}};
        if (o.weight) gradients.emplace_back("weight", "d_weight");
        if (o.bias) gradients.emplace_back("bias", "d_bias");
        if (o.scale) gradients.emplace_back("scale", "d_scale");
        if (o.scale) gradients.emplace_back("shift", "d_shift");
        check_gradient({forward(4, 5, o), backward(4, 5, o, 0), {{"y", "d_y"}}, gradients});
    }
}

TEST_CASE("layer_norm: a row does not depend on the others") {
    const int64_t C = 75, R = 300;
    std::vector<double> x(R * C);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i * 37 % 101) / 50 - 1;
    const std::vector<double> all = rows_of(x, C);
    for (int64_t r : {0, 218, 299}) {
        const std::vector<double> alone = rows_of({x.begin() + r * C, x.begin() + (r + 1) * C}, C);
        CHECK(std::equal(alone.begin(), alone.end(), all.begin() + r * C));
    }
}

TEST_CASE("layer_norm refuses") {
    OpCase c = forward(4, 8, {.scale = true, .per_sequence = 2});
    c.fields[4] = input("scale", {4, 8});
    check_refused(c, Code::invalid_argument, "scale has shape [4, 8], expected [2, 8]");
    c = forward(4, 8, {.scale = true, .per_sequence = 2});
    c.fields.erase(c.fields.begin() + 5);
    check_refused(c, Code::invalid_argument, "scale and shift go together");
    c = forward(4, 8, {});
    c.fields.pop_back();
    check_refused(c, Code::invalid_argument, "mean and inv_std go together");
    check_refused(forward(4, 8, {.per_sequence = 0}), Code::invalid_argument, "rows_per_sequence must be positive");
    c = backward(4, 8, {.bias = false});
    c.fields.push_back(in_out("d_bias", {8}));
    check_refused(c, Code::invalid_argument, "d_bias needs bias");
    c = backward(4, 8, {});
    c.fields.push_back(output("d_scale", {4, 8}));
    check_refused(c, Code::invalid_argument, "d_scale needs scale");
}
