#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr ReduceKind kKinds[] = {ReduceKind::sum, ReduceKind::mean,        ReduceKind::max,
                                 ReduceKind::min, ReduceKind::sum_squares, ReduceKind::count_non_finite};
constexpr ReduceAxis kAxes[] = {ReduceAxis::columns, ReduceAxis::rows};

struct Call {
    int64_t R, C;
    ReduceKind kind = ReduceKind::sum;
    ReduceAxis axis = ReduceAxis::columns;
    DType dtype = DType::f32;
    bool accumulate = false;
};

OpCase reduced(Call a) {
    const int64_t n = a.axis == ReduceAxis::columns ? a.R : a.C;
    return {"reduce " + std::to_string(a.R) + "x" + std::to_string(a.C) + " kind " +
                std::to_string(static_cast<int>(a.kind)) + " axis " + std::to_string(static_cast<int>(a.axis)),
            {input("x", {a.R, a.C}, {}, a.dtype), a.accumulate ? in_out("y", {n}) : output("y", {n})},
            [a](const Tensors& t, Context& c) {
                return reduce({.x = t["x"], .y = t["y"], .kind = a.kind, .axis = a.axis, .accumulate = a.accumulate},
                              c);
            },
            a.kind == ReduceKind::max || a.kind == ReduceKind::min ? 0.0 : 2.0};
}

}  // namespace

TEST_CASE("reduce") {
    for (const ReduceKind kind : kKinds)
        for (const ReduceAxis axis : kAxes)
            for (const DType dtype : {DType::f32, DType::bf16}) {
                for (int64_t C : {1, 3, 8, 31, 32, 33, 70}) check(reduced({5, C, kind, axis, dtype}));
                for (int64_t R : {1, 257}) check(reduced({R, 9, kind, axis, dtype}));
            }
    for (const ReduceKind kind : {ReduceKind::sum, ReduceKind::max}) {
        check(reduced({2, 16385, kind, ReduceAxis::columns}));
        check(reduced({2, 2049, kind, ReduceAxis::rows}));
        check(reduced({513, 3, kind, ReduceAxis::rows}));
        check(reduced({1100, 130, kind, ReduceAxis::rows, DType::bf16}));
        for (int64_t C : {2047, 2048, 2049, 16383, 33000})
            check(reduced({2, C, kind, ReduceAxis::columns, DType::bf16}));
    }
    for (const ReduceAxis axis : kAxes) check(reduced({5, 19, ReduceKind::mean, axis, DType::f32, true}));
}

TEST_CASE("reduce of nothing") {
    for (const ReduceAxis axis : kAxes)
        for (const ReduceKind kind : kKinds) {
            check(reduced({0, 0, kind, axis}));
            check(reduced({axis == ReduceAxis::columns ? 3 : 0, axis == ReduceAxis::columns ? 0 : 3, kind, axis}));
        }
}

TEST_CASE("reduce counts what is not finite, and max skips NaN") {
    for (const ReduceAxis axis : kAxes)
        for (const ReduceKind kind : {ReduceKind::count_non_finite, ReduceKind::max, ReduceKind::min})
            for (const DType dtype : {DType::f32, DType::bf16}) {
                OpCase c = reduced({3, 11, kind, axis, dtype});
                c.fields[0].fill.values.assign(33, 1.5);
                for (const auto& [i, v] : {std::pair{4, NAN}, {9, INFINITY}, {10, -INFINITY}, {21, NAN}, {32, -NAN}})
                    c.fields[0].fill.values[i] = v;
                check(c);
            }
}

TEST_CASE("reduce refuses") {
    check_refused(reduced({2, 3, ReduceKind::max, ReduceAxis::rows, DType::f32, true}), Code::invalid_argument,
                  "accumulate does not go with max and min");
    OpCase c = reduced({2, 3});
    c.fields[1] = output("y", {3});
    check_refused(c, Code::invalid_argument, "y has shape [3], expected [2]");
}
