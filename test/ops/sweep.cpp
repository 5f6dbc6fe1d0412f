#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

OpCase sweep_case(int64_t B, int64_t n, std::vector<double> change, float tolerance = 0.5f) {
    change.resize(B, INFINITY);
    return {"sweep " + std::to_string(B) + "x" + std::to_string(n),
            {input("next", {B, n}), in_out("state", {B, n}), in_out("change", {B}, {.values = change}),
             in_out("sweeps", {B}, {.low = 0, .high = 9}, DType::i32)},
            [tolerance](const Tensors& t, Context& c) {
                return sweep({.next = t["next"],
                              .state = t["state"],
                              .change = t["change"],
                              .sweeps = t["sweeps"],
                              .tolerance = tolerance},
                             c);
            },
            0};
}

}  // namespace

TEST_CASE("sweep") {
    for (const int64_t n : awkward_sizes(67)) check(sweep_case(3, n, {1, 0.25, 0.75}));
    for (const int64_t B : {0, 1, 2, 70}) check(sweep_case(B, 5, {0.5, 0.6, INFINITY}));
    check(sweep_case(2, 3000, {}));
}

TEST_CASE("sweep: what is not finite has not come to rest") {
    for (const double bad : {NAN, INFINITY}) {
        OpCase c = sweep_case(1, 20, {});
        c.fields[0].fill.values.assign(20, 1.0);
        c.fields[0].fill.values[17] = bad;
        c.judge = [](const Tensors&, const Tensors& measured) -> std::string {
            return measured.values("change")[0] == INFINITY ? "" : "change is finite";
        };
        check(c);
    }
}

TEST_CASE("sweep: what is fixed stays") {
    for (const int64_t m : {1, 4, 12}) {
        OpCase c = sweep_case(4, 12, {1, 0.25, 0.75});
        c.fields.push_back(ids("fixed", {4, m}, 0, 2, DType::u8));
        c.run = [](const Tensors& t, Context& context) {
            return sweep({.next = t["next"],
                          .state = t["state"],
                          .change = t["change"],
                          .sweeps = t["sweeps"],
                          .fixed = t["fixed"],
                          .tolerance = 0.5f},
                         context);
        };
        check(c);
        c.fields.back() = ids("fixed", {4, 5}, 0, 2, DType::u8);
        check_refused(c, Code::invalid_argument, "the length of fixed must divide n");
    }
}

TEST_CASE("sweep refuses") {
    OpCase c = sweep_case(2, 8, {});
    c.fields[1] = in_out("state", {2, 7});
    check_refused(c, Code::invalid_argument, "state has shape [2, 7], expected [2, 8]");
    check_refused(sweep_case(2, 8, {}, -1.0f), Code::invalid_argument, "tolerance may not be negative");
}
