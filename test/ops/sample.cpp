#include <algorithm>
#include <numeric>

#include "doctest/doctest.h"
#include "noema/rng.h"
#include "ops/head_cases.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Options {
    SampleKind kind = SampleKind::gumbel;
    float temperature = 1;
    int64_t top_k = 0;
    float top_p = 1;
    int64_t excluded = -1;
    Precision precision = Precision::f32;
    int64_t rows = 0;  // 0: all rows
    int64_t K = 0;     // of top_ids
    bool stats = false;
    bool steps = false;  // a step for each row
};

/// A row's ids with the bounds of what is right for each, in double from the truth's tensors. Where a cut falls within
/// rounding, both sides are right.
struct Row {
    std::vector<double> logits;
    std::vector<int64_t> order;      // falling
    size_t surely = 0, perhaps = 0;  // how many of the order survive top_p
    double temperature;
};

constexpr double kClose = 1e-5;

std::vector<double> masses(const Row& row, size_t n) {
    std::vector<double> mass;
    for (size_t i = 0; i < n; ++i)
        mass.push_back(std::exp((row.logits[row.order[i]] - row.logits[row.order[0]]) / row.temperature));
    const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
    for (double& m : mass) m /= total;
    return mass;
}

Row row_of(const Tensors& t, int64_t row, const Options& o) {
    Row out{.logits = logits_of(t, row, o.excluded), .temperature = o.temperature};
    out.order.resize(out.logits.size());
    std::iota(out.order.begin(), out.order.end(), 0);
    std::stable_sort(out.order.begin(), out.order.end(),
                     [&](int64_t a, int64_t b) { return out.logits[a] > out.logits[b]; });
    if (o.excluded >= 0) out.order.pop_back();
    if (o.top_k > 0 && o.top_k < static_cast<int64_t>(out.order.size())) out.order.resize(o.top_k);
    const std::vector<double> mass = masses(out, out.order.size());
    double sum = 0;
    for (size_t i = 0; i < mass.size(); sum += mass[i++]) {
        if (i == 0 || o.top_p == 1 || sum < o.top_p - kClose) out.surely = i + 1;
        if (i == 0 || o.top_p == 1 || sum < o.top_p + kClose) out.perhaps = i + 1;
    }
    return out;
}

double uniform_of(const Tensors& t, int64_t r, int64_t lane, int64_t step) {
    if (t["steps"]) step = t["steps"].as<int32_t>()[r];
    return rng_uniform(static_cast<uint64_t>(t["seeds"].as<int64_t>()[r]), RngStream::token,
                       static_cast<uint32_t>(step), static_cast<uint32_t>(t["positions"].as<int32_t>()[r]),
                       static_cast<uint32_t>(lane));
}

bool right_gumbel(const Tensors& t, int64_t r, const Row& row, size_t rank) {
    const auto score = [&](size_t i) {
        const int64_t v = row.order[i];
        return row.logits[v] / row.temperature - std::log(-std::log(uniform_of(t, r, v, 3)));
    };
    for (size_t i = 0; i < row.surely; ++i)
        if (score(i) > score(rank) + 1e-4) return false;
    return true;
}

bool right_categorical(const Tensors& t, int64_t r, const Row& row, int64_t token) {
    for (const size_t n : {row.surely, row.perhaps}) {
        const std::vector<double> mass = masses(row, n);
        double below = 0, own = 0;
        for (size_t i = 0; i < n; ++i) {
            if (row.order[i] < token) below += mass[i];
            if (row.order[i] == token) own = mass[i];
        }
        const double u = uniform_of(t, r, 0, 3);
        if (u > below - kClose && u < below + own + kClose) return true;
    }
    return false;
}

std::string judge(const Tensors& truth, const Tensors& measured, const Options& o) {
    const std::vector<double> tokens = measured.values("tokens"), logit = measured.values("logit");
    for (size_t r = 0; r < tokens.size(); ++r) {
        const int64_t token = static_cast<int64_t>(tokens[r]);
        const Row row = row_of(truth, truth["rows"] ? truth["rows"].as<int32_t>()[r] : static_cast<int64_t>(r), o);
        const size_t rank =
            static_cast<size_t>(std::find(row.order.begin(), row.order.end(), token) - row.order.begin());
        const std::string name = "row " + std::to_string(r) + ": token " + std::to_string(token);
        if (rank >= row.perhaps) return name + " was cut, excluded, or is no token";
        if (std::fabs(logit[r] - row.logits[token]) > 1e-4 * (1 + std::fabs(row.logits[token])))
            return name + ": logit";
        bool right = row.logits[token] > row.logits[row.order[0]] - 1e-4;
        if (o.temperature > 0 && o.kind == SampleKind::gumbel)
            right = right_gumbel(truth, static_cast<int64_t>(r), row, rank);
        if (o.temperature > 0 && o.kind == SampleKind::categorical)
            right = right_categorical(truth, static_cast<int64_t>(r), row, token);
        if (!right)
            return name + " is not what the numbers say; the reference chose " +
                   std::to_string(static_cast<int64_t>(truth.values("tokens")[r]));
    }
    return "";
}

std::string name_of(const Options& o) {
    return " kind " + std::to_string(static_cast<int>(o.kind)) + " temperature " + std::to_string(o.temperature) +
           " top_k " + std::to_string(o.top_k) + " top_p " + std::to_string(o.top_p);
}

OpCase draw_tokens(const HeadShape& s, const Options& o) {
    const int64_t R = o.rows ? o.rows : s.N;
    std::vector<Field> fields = head_fields(s);
    if (o.rows) fields.push_back(ids("rows", {R}, 0, s.N));
    fields.push_back(ids("seeds", {R}, INT64_MIN / 2, INT64_MAX / 2, DType::i64));
    fields.push_back(ids("positions", {R}, 0, 5000));
    if (o.steps) fields.push_back(ids("steps", {R}, -5, 5));
    fields.push_back(output("tokens", {R}, DType::i32));
    fields.push_back(output("logit", {R}));
    if (o.stats)
        for (const char* name : {"max_logit", "lse", "entropy", "margin"}) fields.push_back(output(name, {R}));
    if (o.K) fields.push_back(output("top_ids", {R, o.K}, DType::i32));
    if (o.K) fields.push_back(output("top_logits", {R, o.K}));
    OpCase c{"sample " + name_of(s) + name_of(o), fields, [o](const Tensors& t, Context& c) {
                 return sample(
                     {.hidden = t["hidden"],
                      .rows = t["rows"],
                      .weight = {t["weight"]},
                      .bias = t["bias"],
                      .seeds = t["seeds"],
                      .positions = t["positions"],
                      .steps = t["steps"],
                      .tokens = t["tokens"],
                      .logit = t["logit"],
                      .out = {{}, t["max_logit"], t["lse"], t["entropy"], t["margin"], t["top_ids"], t["top_logits"]},
                      .excluded_id = o.excluded,
                      .step = 3,
                      .temperature = o.temperature,
                      .top_k = o.top_k,
                      .top_p = o.top_p,
                      .kind = o.kind,
                      .precision = o.precision},
                     c);
             }};
    c.judge = [o](const Tensors& truth, const Tensors& measured) {
        const std::string reference = judge(truth, truth, o);
        return reference.empty() ? judge(truth, measured, o) : "the reference: " + reference;
    };
    return c;
}

const SampleKind kBoth[] = {SampleKind::gumbel, SampleKind::categorical};

/// One row of known logits, drawn 20,000 times: chi-square against the exact distribution.
double chi_square(const std::vector<double>& logits, Options o) {
    const int64_t V = static_cast<int64_t>(logits.size()), R = 20000;
    o.rows = R;
    OpCase c = draw_tokens({.N = 1, .C = 1, .V = V, .bias = false}, o);
    field_of(c, "hidden").fill.values = {1};
    field_of(c, "weight").fill.values = logits;
    for (int64_t r = 0; r < R; ++r) {
        field_of(c, "seeds").fill.values.push_back(static_cast<double>(1234 + r / 500));
        field_of(c, "positions").fill.values.push_back(static_cast<double>(r % 500));
    }
    const Tensors t = run_alone(c);
    const Row row = row_of(t, 0, o);
    const std::vector<double> mass = masses(row, row.surely);
    std::vector<double> seen(logits.size());
    for (const double token : t.values("tokens")) ++seen[static_cast<size_t>(token)];
    double sum = 0, total = 0;
    for (size_t i = 0; i < mass.size(); ++i) {
        const double expected = mass[i] * static_cast<double>(R), n = seen[row.order[i]];
        sum += (n - expected) * (n - expected) / expected;
        total += n;
    }
    CHECK(total == R);  // nothing that was cut
    return sum;
}

}  // namespace

TEST_CASE("sample: every way through a row") {
    for (const SampleKind kind : kBoth) {
        for (int64_t V : {1, 2, 17, 1000, 2049}) check(draw_tokens({.C = 5, .V = V}, {.kind = kind}));
        for (const float temperature : {0.0f, 0.3f, 2.5f})
            check(draw_tokens({.N = 12}, {.kind = kind, .temperature = temperature}));
        for (int64_t top_k : {1, 7, 40, 50, 60})
            check(draw_tokens({.N = 12}, {.kind = kind, .temperature = 0.8f, .top_k = top_k}));
        for (const float top_p : {1e-6f, 0.3f, 0.9f, 0.9999f})
            check(draw_tokens({.N = 12, .V = 400, .scale = 0.3}, {.kind = kind, .top_p = top_p}));
        check(draw_tokens({.N = 9}, {.kind = kind, .temperature = 1.5f, .top_k = 20, .top_p = 0.7f}));
        check(draw_tokens({.N = 12, .scale = 0.3}, {.kind = kind, .steps = true}));
        check(draw_tokens({.N = 12, .scale = 0.3}, {.kind = kind, .top_k = 20, .steps = true}));
        check(draw_tokens({.N = 3, .C = 2, .V = 3000}, {.kind = kind, .top_k = 1500, .top_p = 0.95f}));
        check(draw_tokens({.N = 3, .C = 2, .V = 3000}, {.kind = kind, .top_k = 2000, .excluded = 2999}));
    }
}

TEST_CASE("sample: rows, excluded id, precisions, ties, statistics in the same pass") {
    for (const SampleKind kind : kBoth) {
        check(draw_tokens({.N = 0}, {.kind = kind}));
        check(draw_tokens({.N = 4, .V = 30}, {.kind = kind, .excluded = 0, .rows = 33}));
        check(draw_tokens({.N = 4, .V = 2}, {.kind = kind, .excluded = 1}));
        check(draw_tokens({.V = 300, .whole_numbers = true},
                          {.kind = kind, .excluded = 5, .precision = Precision::bf16, .stats = true}));
        check(draw_tokens({.V = 300, .whole_numbers = true}, {.kind = kind, .top_k = 9, .K = 12, .stats = true}));
        check(draw_tokens({.V = 300, .whole_numbers = true}, {.kind = kind, .top_p = 0.5f, .K = 12}));
        check(draw_tokens({.N = 4, .C = 8, .V = 40, .scale = 2000}, {.kind = kind, .temperature = 0.01f}));
        check(draw_tokens({.N = 4, .C = 8, .V = 40}, {.kind = kind, .temperature = 1e-30f}));
    }
    check(draw_tokens({.V = 64, .whole_numbers = true}, {.temperature = 0}));
}

TEST_CASE("sample: the statistics are row_stats' own, to the bit") {
    const HeadShape s{.N = 9, .C = 20, .V = 4200};
    for (const Options& o :
         {Options{.excluded = 9, .K = 5, .stats = true}, Options{.top_p = 0.9f, .excluded = 9, .K = 5, .stats = true},
          Options{.top_k = 50, .excluded = 9, .K = 5, .stats = true}}) {
        const OpCase draws = draw_tokens(s, o);
        OpCase c = draws;
        c.run = [](const Tensors& t, Context& c) {
            return row_stats(
                {.hidden = t["hidden"],
                 .weight = {t["weight"]},
                 .bias = t["bias"],
                 .out = {{}, t["max_logit"], t["lse"], t["entropy"], t["margin"], t["top_ids"], t["top_logits"]},
                 .excluded_id = 9},
                c);
        };
        for (const std::string& backend : backends()) {
            const Tensors sampled = run_alone(draws, backend), stats = run_alone(c, backend);
            for (const char* name : {"max_logit", "lse", "entropy", "margin", "top_ids", "top_logits"})
                CHECK(sampled.values(name) == stats.values(name));
        }
    }
}

TEST_CASE("sample: a token does not depend on its batch") {
    for (const Options& o :
         {Options{}, Options{.top_k = 40}, Options{.kind = SampleKind::categorical, .top_p = 0.9f}}) {
        const OpCase c = draw_tokens({.N = 300, .C = 12, .V = 2500}, o);
        for (const std::string& backend : backends()) {
            INFO("backend ", backend);
            const Tensors batch = run_alone(c, backend);
            for (const int64_t row : {0, 7, 255, 256, 299}) CHECK(row_difference(c, batch, 300, row, backend) == "");
        }
    }
}

TEST_CASE("sample on the edges of a device's tiles") {
    for (const SampleKind kind : kBoth)
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            // Whole numbers are the same in bf16.
            const HeadShape s{.C = 9, .V = 130, .whole_numbers = precision == Precision::bf16, .scale = 0.3};
            const Options o{.kind = kind, .precision = precision};
            for (HeadShape many = s; const int64_t N : {16, 33, 65, 129}) {
                many.N = N;
                check(draw_tokens(many, o));
            }
            HeadShape other = s;
            other.C = 64, other.V = 260, other.weight = DType::bf16;
            check(draw_tokens(other, o));
            other = s;
            other.N = 3, other.V = 32900;
            check(draw_tokens(other, o));
        }
    // Hundreds of equal logits, where cuts fall among ids.
    for (const SampleKind kind : kBoth) {
        check(draw_tokens({.N = 9, .C = 2, .V = 2200, .whole_numbers = true}, {.kind = kind, .top_k = 300}));
        check(draw_tokens({.N = 9, .C = 2, .V = 2200, .whole_numbers = true},
                          {.kind = kind, .top_k = 700, .top_p = 0.6f}));
    }
}

// Each bound is exceeded once in 10,000 seeds.
TEST_CASE("sample: follows the distribution") {
    const std::vector<double> logits{0.5, -1, 2, 1.5, -0.5, 0, 1, -2, 0.25, 1.75, -1.5, 0.75};
    for (const SampleKind kind : kBoth) {
        CHECK(chi_square(logits, {.kind = kind}) < 37.4);                       // 11 degrees of freedom
        CHECK(chi_square(logits, {.kind = kind, .temperature = 0.7f}) < 37.4);  // 11
        CHECK(chi_square(logits, {.kind = kind, .top_k = 5}) < 23.5);           // 4
        CHECK(chi_square(logits, {.kind = kind, .top_p = 0.8f}) < 27.9);        // at most 6
        CHECK(chi_square(logits, {.kind = kind, .temperature = 2, .top_k = 8, .top_p = 0.75f}) < 27.9);
    }
}

TEST_CASE("sample: a row without a distribution gives the first allowed token") {
    for (const SampleKind kind : kBoth)
        for (const Options& o : {Options{.kind = kind}, Options{.kind = kind, .top_k = 3},
                                 Options{.kind = kind, .top_p = 0.5f}, Options{.kind = kind, .temperature = 0}}) {
            Options with = o;
            with.excluded = 0;
            OpCase c = draw_tokens({.N = 3, .C = 2, .V = 40, .bias = false}, with);
            field_of(c, "hidden").fill.values = {1, 2, NAN, 1, 3, 1};
            for (const std::string& backend : backends()) {
                const Tensors t = run_alone(c, backend);
                CHECK(t.values("tokens")[1] == 1);
                CHECK(std::isnan(t.values("logit")[1]));
                CHECK(!std::isnan(t.values("logit")[0]));
            }
        }
}

TEST_CASE("sample refuses") {
    check_refused(draw_tokens({}, {.temperature = -1}), Code::invalid_argument, "temperature");
    check_refused(draw_tokens({}, {.temperature = NAN}), Code::invalid_argument, "temperature");
    check_refused(draw_tokens({}, {.top_k = -1}), Code::invalid_argument, "top_k");
    check_refused(draw_tokens({}, {.top_p = 0}), Code::invalid_argument, "top_p");
    check_refused(draw_tokens({}, {.top_p = 1.5f}), Code::invalid_argument, "top_p");
    OpCase c = draw_tokens({}, {});
    field_of(c, "seeds").dtype = DType::i32;
    check_refused(c, Code::invalid_argument, "seeds is i32, expected i64");
    c = draw_tokens({}, {.steps = true});
    field_of(c, "steps").shape = {4};
    check_refused(c, Code::invalid_argument, "steps has shape [4], expected [5]");
}
