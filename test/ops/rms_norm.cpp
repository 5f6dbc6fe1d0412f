#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

OpCase forward(int64_t R, int64_t C, double scale = 1.0) {
    return {"rms_norm " + std::to_string(R) + "x" + std::to_string(C),
            {input("x", {R, C}, {.scale = scale}), input("weight", {C}, {.scale = 0.1, .shift = 1}),
             output("y", {R, C}), output("inv_rms", {R})},
            [](const Tensors& t, Context& c) {
                return rms_norm({.x = t["x"], .weight = t["weight"], .y = t["y"], .inv_rms = t["inv_rms"]}, c);
            }};
}

OpCase backward(int64_t R, int64_t C, bool accumulate) {
    return {"rms_norm_backward " + std::to_string(R) + "x" + std::to_string(C),
            {input("x", {R, C}), input("weight", {C}, {.scale = 0.1, .shift = 1}),
             input("inv_rms", {R}, {.scale = 0.05, .shift = 1}), input("d_y", {R, C}),
             accumulate ? in_out("d_x", {R, C}) : output("d_x", {R, C}), in_out("d_weight", {C})},
            [accumulate](const Tensors& t, Context& c) {
                return rms_norm_backward({.x = t["x"],
                                          .weight = t["weight"],
                                          .inv_rms = t["inv_rms"],
                                          .d_y = t["d_y"],
                                          .d_x = t["d_x"],
                                          .d_weight = t["d_weight"],
                                          .accumulate_x = accumulate},
                                         c);
            }};
}

}  // namespace

TEST_CASE("rms_norm") {
    for (int64_t C : awkward_sizes(513))
        if (C > 0) check(forward(3, C));
    for (int64_t R : {0, 1, 63, 64, 65}) check(forward(R, 40));
    for (int64_t C : {256, 260, 1024, 1025, 1028, 4096, 4100, 8192, 8196, 9001}) check(forward(2, C));
    check(forward(2, 64, 1e-12));  // epsilon carries the row
    check(forward(2, 64, 1e12));
}

TEST_CASE("rms_norm_backward") {
    for (int64_t C : {1, 7, 16, 33, 130}) check(backward(5, C, C % 2));
    for (int64_t R : {0, 1, 64, 65, 200, 4200}) check(backward(R, 24, R % 2));
    for (int64_t C : {256, 260, 1024, 1025, 1028, 4096, 4100, 8192, 8196, 9001}) check(backward(11, C, C % 8 == 0));
    OpCase frozen = backward(9, 40, false);
    frozen.fields.pop_back();
    check(frozen);
    for (int64_t C : {1, 5, 32}) {
        OpCase b = backward(4, C, false);
        b.fields.back() = in_out("d_weight", {C}, {.scale = 0});
        check_gradient({forward(4, C), b, {{"y", "d_y"}}, {{"x", "d_x"}, {"weight", "d_weight"}}});
    }
}

TEST_CASE("rms_norm: a device gives the same bits to aligned rows and to others") {
    for (const std::string& device : devices())
        for (int64_t C : {40, 1024, 1028, 4100, 9004})
            for (const OpCase& c : {forward(3, C), backward(11, C, true)}) {
                INFO(device, " ", c.title);
                Tensors plain = make_tensors(c.fields, c.title, false, false);
                Tensors padded = make_tensors(c.fields, c.title, false, true);
                REQUIRE(run_on_device(c, plain, device_engine(device)).ok());
                REQUIRE(run_on_device(c, padded, device_engine(device)).ok());
                for (const Field& field : c.fields) CHECK(plain.values(field.name) == padded.values(field.name));
            }
}

TEST_CASE("rms_norm: y may be x, not another arrangement of its memory") {
    float x[64] = {}, weight[8] = {};
    View wide = view(x, DType::f32, 2, 8);
    wide.stride[0] = 32;
    const View narrow = view(x, DType::f32, 2, 8), w = view(weight, DType::f32, 8);
    Context context{find_backend("cpu")};
    CHECK(rms_norm({.x = wide, .weight = w, .y = wide}, context).ok());
    CHECK(rms_norm({.x = wide, .weight = w, .y = narrow}, context).code == Code::invalid_argument);
}

TEST_CASE("rms_norm refuses") {
    OpCase c = forward(2, 8);
    c.fields[1] = input("weight", {7});
    check_refused(c, Code::invalid_argument, "weight has shape [7], expected [8]");
}
