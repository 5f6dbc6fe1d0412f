#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"
#include "noema/rng.h"

using namespace noema;
using namespace noema::test;

namespace {

double uniform_of(const Tensors& t, int64_t r, int64_t j, int64_t step) {
    if (const View u = t["uniforms"]) return t.values("uniforms")[r * u.shape[1] + j];
    if (t["steps"]) step = t["steps"].as<int32_t>()[r];
    return rng_uniform(static_cast<uint64_t>(t["seeds"].as<int64_t>()[r]), RngStream::remask,
                       static_cast<uint32_t>(step), static_cast<uint32_t>(t["positions"].as<int32_t>()[r]),
                       static_cast<uint32_t>(j));
}

struct Options {
    float temperature = 1;
    int64_t step = 0;
    float scale = 1, last = -1;
};

// The pick must be the reference's, or within f32 rounding of the reference's score.
std::string judge(const Tensors& truth, const Tensors& measured, const Options& o) {
    const std::vector<double> expected = truth.values("index"), got = measured.values("index");
    std::vector<double> weight = truth.values("weight");
    const int64_t K = truth["weight"].shape[1];
    for (size_t i = 0; i < weight.size(); ++i)
        weight[i] = o.last >= 0 && static_cast<int64_t>(i) % K == K - 1 ? double{o.last} : o.scale * weight[i];
    const double temperature = o.temperature;
    for (size_t r = 0; r < got.size(); ++r) {
        if (got[r] == expected[r]) continue;
        const auto score = [&](double j) {
            const double u = uniform_of(truth, static_cast<int64_t>(r), static_cast<int64_t>(j), o.step);
            return std::log(weight[r * K + static_cast<size_t>(j)]) -
                   temperature * std::log(1e-10 - std::log(u + 1e-10));
        };
        if (got[r] < 0 || got[r] >= K || !(score(got[r]) > score(expected[r]) - 1e-5 * std::max(1.0, temperature)))
            return "row " + std::to_string(r) + " picked " + std::to_string(got[r]) + ", the best is " +
                   std::to_string(expected[r]);
    }
    return "";
}

OpCase draw_case(std::vector<Field> fields, const std::string& what, Options o) {
    OpCase c{"draw " + what + " temperature " + std::to_string(o.temperature), std::move(fields),
             [=](const Tensors& t, Context& c) {
                 return draw({.weight = t["weight"],
                              .uniforms = t["uniforms"],
                              .seeds = t["seeds"],
                              .positions = t["positions"],
                              .steps = t["steps"],
                              .index = t["index"],
                              .step = o.step,
                              .temperature = o.temperature,
                              .scale = o.scale,
                              .last = o.last},
                             c);
             }};
    c.judge = [=](const Tensors& truth, const Tensors& measured) { return judge(truth, measured, o); };
    return c;
}

OpCase given(int64_t R, int64_t K, Options o) {
    return draw_case({input("weight", {R, K}, {.scale = 0.1, .shift = 1}),
                      input("uniforms", {R, K}, {.scale = 0.1, .shift = 0.5}), output("index", {R}, DType::i32)},
                     "given " + std::to_string(R) + "x" + std::to_string(K), o);
}

OpCase seeded(int64_t R, int64_t K, Options o) {
    return draw_case({input("weight", {R, K}, {.scale = 0.1, .shift = 1}), ids("seeds", {R}, 0, 1 << 30, DType::i64),
                      ids("positions", {R}, 0, 4096), output("index", {R}, DType::i32)},
                     "seeded " + std::to_string(R) + "x" + std::to_string(K), o);
}

/// One row by hand: the index that every instruction set picks.
int64_t pick(std::vector<double> weight, std::vector<double> uniforms, float temperature) {
    OpCase c = given(1, static_cast<int64_t>(weight.size()), {temperature});
    c.fields[0].fill.values = std::move(weight);
    c.fields[1].fill.values = std::move(uniforms);
    check(c);
    ThreadTeam one(1);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    return static_cast<int64_t>(t.values("index")[0]);
}

}  // namespace

TEST_CASE("draw") {
    for (const float temperature : {0.0f, 0.5f, 1.0f, 2.0f}) {
        for (int64_t K : {1, 2, 5, 16, 33, 100}) check(given(7, K, {temperature}));
        for (int64_t K : {1, 3, 8, 31, 32, 65, 300}) check(seeded(9, K, {temperature, 3}));
    }
    check(seeded(0, 4, {}));
    check(seeded(1300, 3, {}));
}

TEST_CASE("draw: a step for each row, scaled weights, a last weight of its own") {
    for (int64_t K : {1, 2, 16, 17, 33}) {
        OpCase c = seeded(9, K, {.scale = 0.25f, .last = 0.4f});
        c.fields.push_back(ids("steps", {9}, -5, 5));
        check(c);
        check(given(9, K, {.temperature = 0.5f, .scale = 3}));
        check(given(9, K, {.last = 0}));
    }
    // What stands in the last column does not matter.
    OpCase c = given(2, 3, {.temperature = 0, .scale = 0.5f, .last = 0.3f});
    c.fields[0].fill.values = {0.5, 0.7, NAN, 0.5, 0.5, 9};
    check(c);
    ThreadTeam one(1);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    CHECK(t.values("index") == std::vector<double>{1, 2});
}

TEST_CASE("draw at the edges of its numbers") {
    CHECK(pick({0.2, 0.7, 0.7, 0.1}, {0.9, 0.1, 0.9, 0.99}, 0) == 1);  // ties go to the lowest
    CHECK(pick({0, 0, 0}, {0.1, 0.9, 0.5}, 1) == 0);
    CHECK(pick({0, 1e-30, 0}, {0.99, 0, 0.99}, 1) == 1);
    CHECK(pick({0, 1e-30, 0}, {0.99, 0, 0.99}, 3) == 1);
    // 1e-10 - log(u + 1e-10) next to 1: 5.96e-8 and 1.19e-7, so half the weight is more than enough.
    CHECK(pick({1, 0.51}, {1 - 0x1p-23, 1 - 0x1p-24}, 1) == 1);
    CHECK(pick({1, 0.49}, {1 - 0x1p-23, 1 - 0x1p-24}, 1) == 0);
    CHECK(pick({1e-20, 1}, {1 - 0x1p-24, 0}, 40) == 0);  // powers would overflow
}

// Rows of the released code (ybseo-ac/Conv, generate_yb.py and r2ft_tools.py); the last candidate is MASK.
TEST_CASE("draw against the released code") {
    CHECK(pick({0.05579726, 0.03277376, 0.0137388, 0.004587468, 0.500005},
               {0.966119, 0.9628233, 0.5334238, 0.8170564, 0.6138104}, 1) == 0);
    CHECK(pick({0.02263482, 0.009690102, 0.007620225, 0.00722427, 0.500005},
               {0.9166968, 0.3179441, 0.07316154, 0.9752941, 0.06571567}, 1) == 3);
    CHECK(pick({0.02287135, 0.02240718, 0.02223345, 0.01434415, 0.01153211, 0.007895181, 0.2497575},
               {0.9163934, 0.9966974, 0.1228899, 0.7844858, 0.8053315, 0.6523666, 0.9287576}, 1) == 1);
    CHECK(pick({0.1401174, 0.4500055}, {0.9587656, 0.2925569}, 0.5f) == 0);
    CHECK(pick({0.07195578, 0.4500055}, {0.3513818, 0.5393512}, 0.5f) == 1);
}

// Gumbel's trick draws j with probability weight_j / sum: chi-square over 20,000 rows, 4 degrees of freedom.
TEST_CASE("draw follows the weights") {
    constexpr int64_t R = 20000, K = 5;
    const double weight[K] = {0.1, 0.2, 0.05, 0.4, 0.25};
    OpCase c = seeded(R, K, {.step = 11});
    for (int64_t r = 0; r < R; ++r) {
        c.fields[0].fill.values.insert(c.fields[0].fill.values.end(), weight, weight + K);
        c.fields[1].fill.values.push_back(static_cast<double>(77 + r / 100));
        c.fields[2].fill.values.push_back(static_cast<double>(r % 100));
    }
    ThreadTeam one(1);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    double seen[K] = {}, chi_square = 0;
    for (const double j : t.values("index")) ++seen[static_cast<int64_t>(j)];
    for (int64_t j = 0; j < K; ++j) chi_square += std::pow(seen[j] - R * weight[j], 2) / (R * weight[j]);
    CHECK(chi_square < 23.5);  // exceeded once in 10,000 seeds
}

TEST_CASE("draw refuses") {
    OpCase c = given(2, 3, {});
    c.fields.push_back(ids("seeds", {2}, 0, 9, DType::i64));
    c.fields.push_back(ids("positions", {2}, 0, 9));
    check_refused(c, Code::invalid_argument, "uniforms must be given, or else seeds and positions");
    c = seeded(2, 3, {});
    c.fields.erase(c.fields.begin() + 2);
    check_refused(c, Code::invalid_argument, "positions has shape [], expected [2]");
    check_refused(given(2, 0, {}), Code::invalid_argument, "at least one candidate");
    check_refused(given(2, 3, {-1}), Code::invalid_argument, "temperature");
    check_refused(seeded(2, 3, {.step = int64_t{1} << 32}), Code::invalid_argument, "step");
    check_refused(given(2, 3, {.scale = -1}), Code::invalid_argument, "scale");
    check_refused(given(2, 3, {.last = NAN}), Code::invalid_argument, "last");
    c = given(2, 3, {});
    c.fields.push_back(ids("steps", {2}, 0, 9));
    check_refused(c, Code::invalid_argument, "steps needs seeds");
}
