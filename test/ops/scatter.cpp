#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

/// Every third row stays where it is; the others go to the end of y, in reverse.
OpCase scattered(int64_t R, int64_t C, int64_t S) {
    std::vector<double> rows;
    for (int64_t r = 0; r < R; ++r) rows.push_back(r % 3 == 1 ? -1.0 - static_cast<double>(r) : double(S - 1 - r));
    Field to = ids("rows", {R}, -R, S);
    to.fill.values = rows;
    return {"scatter " + std::to_string(R) + "x" + std::to_string(C) + " into " + std::to_string(S),
            {input("x", {R, C}), to, in_out("y", {S, C})},
            [](const Tensors& t, Context& context) {
                return scatter({.x = t["x"], .rows = t["rows"], .y = t["y"]}, context);
            }};
}

}  // namespace

TEST_CASE("scatter") {
    for (const int64_t C : awkward_sizes(70)) check(scattered(5, C, 9));
    for (const auto& [R, C, S] : {std::tuple{0, 4, 3}, {0, 4, 0}, {1, 1, 1}, {64, 0, 64}, {130, 40, 131}})
        check(scattered(R, C, S));
}

TEST_CASE("scatter refuses") {
    OpCase c = scattered(4, 3, 8);
    c.fields[1].fill.values = {0, 8, 1, 2};
    check_refused(c, Code::invalid_argument, "rows");
    c = scattered(4, 3, 8);
    c.fields[2] = in_out("y", {8, 4});
    check_refused(c, Code::invalid_argument, "y has shape [8, 4], expected [8, 3]");
}
