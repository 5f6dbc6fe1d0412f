#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

std::string size_of(int64_t R, int64_t V, int64_t C) {
    return std::to_string(R) + " of " + std::to_string(V) + "x" + std::to_string(C);
}

OpCase forward(int64_t R, int64_t V, int64_t C, DType dtype = DType::f32) {
    return {
        "embedding " + size_of(R, V, C) + dtype_name(dtype),
        {ids("ids", {R}, 0, V), input("table", {V, C}, {}, dtype), output("y", {R, C})},
        [](const Tensors& t, Context& c) { return embedding({.ids = t["ids"], .table = t["table"], .y = t["y"]}, c); },
        0};
}

OpCase backward(int64_t R, int64_t V, int64_t C, double scale = 1.0) {
    return {"embedding_backward " + size_of(R, V, C),
            {ids("ids", {R}, 0, V), input("d_y", {R, C}), in_out("d_table", {V, C}, {.scale = scale})},
            [](const Tensors& t, Context& c) {
                return embedding_backward({.ids = t["ids"], .d_y = t["d_y"], .d_table = t["d_table"]}, c);
            }};
}

}  // namespace

TEST_CASE("embedding") {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (int64_t C : awkward_sizes(131)) check(forward(5, 9, C, dtype));
        for (int64_t R : {0, 1, 300}) check(forward(R, 7, 70, dtype));
    }
}

TEST_CASE("embedding_backward") {
    for (int64_t C : awkward_sizes(131)) check(backward(5, 4, C));
    for (int64_t R : {0, 1, 9, 300}) check(backward(R, 3, 20));
    check(backward(40, 1, 65));  // one id takes every row
    for (int64_t R : {255, 256, 257, 1100}) check(backward(R, 1, 33));
    for (int64_t V : {2, 511, 512, 513, 130000}) check(backward(5000, V, 3));
    check(backward(5000, 9, 36));
    OpCase skewed =
        backward(2500, 1000, 132);  // half of all rows are one token's, and its neighbours are frequent, too
    for (int64_t r = 0; r < 2500; ++r) {
        const int64_t often = 997 + r % 7 % 3;
        skewed.fields[0].fill.values.push_back(static_cast<double>(r % 2 ? 998 : r % 4 ? often : r * 31 % 1000));
    }
    check(skewed);
    check_gradient({forward(6, 4, 5), backward(6, 4, 5, 0), {{"y", "d_y"}}, {{"table", "d_table"}}});
}

TEST_CASE("embedding_backward adds equal ids in ascending row order") {
    // 1e8 - 1e8 + 1 is 1 in this order only.
    OpCase c{"order",
             {ids("ids", {3}, 0, 1), input("d_y", {3, 1}, {.values = {1e8, -1e8, 1}}),
              in_out("d_table", {1, 1}, {.values = {0}})},
             backward(3, 1, 1).run};
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    ThreadTeam one(1);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    CHECK(t.values("d_table")[0] == 1.0);
    for (const std::string& device : devices()) {
        for (int64_t R : {3, 300, 5000}) {  // the same bits as one row after the other
            OpCase many = backward(R, 7, 5);
            Tensors there = make_tensors(many.fields, many.title, false, false);
            const Tensors here = make_tensors(many.fields, many.title, false, false);
            REQUIRE(run_on(many, here, "cpu", one).ok());
            REQUIRE(run_on_device(many, there, device_engine(device)).ok());
            CHECK(there.values("d_table") == here.values("d_table"));
        }
    }
}

TEST_CASE("embedding refuses") {
    OpCase c = forward(3, 5, 4);
    c.fields[0].fill.values = {0, 5, 1};
    check_refused(c, Code::invalid_argument, "ids[1] is 5, expected 0 to 4");
    c = backward(3, 5, 4);
    c.fields[0].fill.values = {0, 1, -1};
    check_refused(c, Code::invalid_argument, "ids[2] is -1, expected 0 to 4");
    c = forward(3, 5, 4, DType::f16);
    check_refused(c, Code::invalid_argument, "table is f16, expected f32 or bf16");
    c = forward(3, 5, 4);
    c.fields[2] = output("y", {3, 5});
    check_refused(c, Code::invalid_argument, "y has shape [3, 5], expected [3, 4]");
}
