#include "doctest/doctest.h"
#include "ops/head_cases.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Options {
    int64_t K = 0;  // 0: no list
    int64_t excluded = -1;
    Precision precision = Precision::f32;
    int64_t rows = 0;  // 0: all rows
    bool ids = false;  // argmax
    bool numbers = true;
};

OpCase stats(const HeadShape& s, Options o = {}) {
    const int64_t R = o.rows ? o.rows : s.N;
    std::vector<Field> fields = head_fields(s);
    if (o.rows) fields.push_back(ids("rows", {R}, 0, s.N));
    if (o.ids) fields.push_back(output("argmax", {R}, DType::i32));
    if (o.numbers)
        for (const char* name : {"max_logit", "lse", "entropy", "margin"}) fields.push_back(output(name, {R}));
    if (o.K) fields.push_back(output("top_ids", {R, o.K}, DType::i32));
    if (o.K) fields.push_back(output("top_logits", {R, o.K}));
    OpCase c{"row_stats " + name_of(s) + " K " + std::to_string(o.K), fields, [o](const Tensors& t, Context& c) {
                 return row_stats({.hidden = t["hidden"],
                                   .rows = t["rows"],
                                   .weight = {t["weight"]},
                                   .bias = t["bias"],
                                   .out = {t["argmax"], t["max_logit"], t["lse"], t["entropy"], t["margin"],
                                           t["top_ids"], t["top_logits"]},
                                   .excluded_id = o.excluded,
                                   .precision = o.precision},
                                  c);
             }};
    // The margin is a difference of two probabilities: its error is theirs, however close they are.
    c.allowance = 5e-7;
    return c;
}

}  // namespace

TEST_CASE("row_stats: numbers") {
    for (int64_t V : {1, 2, 17, 1000, 2048, 2049, 4500}) check(stats({.C = 5, .V = V}));
    for (int64_t N : {0, 1, 8, 9, 33}) check(stats({.N = N}));
    for (int64_t C : {1, 7, 64, 257}) check(stats({.C = C}));
    check(stats({.bias = false}));
    check(stats({.weight = DType::bf16}));
    check(stats({.V = 300}, {.precision = Precision::bf16}));
    check(stats({.weight = DType::bf16}, {.excluded = 7, .precision = Precision::bf16, .rows = 11}));
    check(stats({.C = 3, .V = 2100}, {.excluded = 2099}));
    check(stats({.V = 2}, {.excluded = 0}));
    check(stats({.N = 300, .C = 4, .V = 20}, {.rows = 270}));
}

// Whole numbers: every precision forms the same logits, and ties abound.
TEST_CASE("row_stats: ids, ties to the lower one") {
    for (int64_t V : {1, 2, 17, 1000, 2049})
        check(stats({.C = 5, .V = V, .whole_numbers = true}, {.K = std::min<int64_t>(V, 6), .ids = true}));
    for (int64_t K : {1, 2, 16, 17, 32, 33, 100, 1024})
        check(stats({.N = 3, .C = 9, .V = 5000, .whole_numbers = true}, {.K = K, .excluded = 3, .ids = true}));
    check(stats({.V = 17, .whole_numbers = true}, {.K = 17, .ids = true, .numbers = false}));
    check(stats({.V = 64, .whole_numbers = true}, {.K = 63, .excluded = 0, .ids = true}));
    check(stats({.V = 64, .whole_numbers = true}, {.K = 8, .precision = Precision::bf16, .rows = 9, .ids = true}));
    check(stats({.V = 64, .whole_numbers = true, .scale = 0}, {.K = 64, .ids = true}));
    check(stats({.V = 50}, {.ids = true, .numbers = false}));
}

TEST_CASE("row_stats: extreme logits") {
    OpCase steep = stats({.N = 4, .C = 8, .V = 40, .scale = 2000});
    check(steep);  // about +-1e4
    OpCase banned = stats({.N = 2, .V = 40, .whole_numbers = true}, {.K = 40, .ids = true});
    for (size_t v = 1; v < 40; v += 2) field_of(banned, "bias").fill.values[v] = -INFINITY;
    check(banned);
}

TEST_CASE("row_stats: a row with NaN or infinity has no distribution, and still answers with ids") {
    for (const double value : {NAN, INFINITY}) {
        OpCase c = stats({.N = 3, .C = 2, .V = 40, .bias = false}, {.K = 35, .excluded = 0, .ids = true});
        field_of(c, "hidden").fill.values = {1, 2, value, 1, 3, 1};
        field_of(c, "weight").fill.values.assign(80, 0.5);
        const Tensors t = run_alone(c);
        for (const char* name : {"max_logit", "lse", "entropy", "margin"}) {
            CHECK(std::isnan(t.values(name)[1]));
            CHECK(!std::isnan(t.values(name)[0]));
            CHECK(!std::isnan(t.values(name)[2]));
        }
        CHECK(t.values("argmax")[1] == 1);
        for (int64_t k = 0; k < 35; ++k) CHECK(t.values("top_ids")[static_cast<size_t>(35 + k)] == k + 1);
        check(c);
    }
}

TEST_CASE("row_stats: a row does not depend on the others") {
    for (const std::string& backend : backends())
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            INFO("backend ", backend);
            const OpCase c = stats({.N = 300, .C = 20, .V = 2500}, {.K = 40, .precision = precision, .ids = true});
            const Tensors batch = run_alone(c, backend);
            for (const int64_t row : {0, 7, 255, 256, 299}) CHECK(row_difference(c, batch, 300, row, backend) == "");
        }
}

// Tiles of 16, 64 and 128 rows, of 128 tokens and 32 or 64 factors; bf16 weights that can be copied as they are, others; slices
// of 256 tokens.
TEST_CASE("row_stats on the edges of a device's tiles") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const Options o{.precision = precision, .rows = 0};
        for (int64_t N : {16, 17, 33, 64, 65, 129}) check(stats({.N = N, .C = 9, .V = 130}, o));
        for (int64_t V : {127, 128, 129, 256, 257}) check(stats({.C = 31, .V = V}, {.K = 3, .precision = precision}));
        for (int64_t C : {32, 65, 72, 200})
            for (int64_t N : {3, 40}) check(stats({.N = N, .C = C, .V = 140, .weight = DType::bf16}, o));
        check(stats({.N = 2, .C = 3, .V = 32769}, {.excluded = 300, .precision = precision}));
        check(stats({.N = 34, .C = 3, .V = 32900}, o));
    }
    check(stats({.N = 9, .C = 4, .V = 2100, .whole_numbers = true}, {.K = 700, .ids = true}));
    check(stats({.N = 9, .C = 4, .V = 2100}, {.K = 700, .excluded = 40}));
}

TEST_CASE("row_stats: a packed weight gives the same bits") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        OpCase plain = stats({.N = 9, .C = 40, .V = 4500}, {.K = 5, .precision = precision, .ids = true});
        const Tensors expected = run_alone(plain);
        OpCase packed = plain;
        packed.run = [&](const Tensors& t, Context& c) {
            const View weight = t["weight"];
            std::vector<std::byte> room(c.backend->packed_bytes(weight, precision, false) + 64);
            void* memory = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64);
            NOEMA_TRY(matmul_pack({weight, memory, precision}, c));
            return row_stats({.hidden = t["hidden"],
                              .weight = {weight, memory, precision},
                              .bias = t["bias"],
                              .out = {t["argmax"], t["max_logit"], t["lse"], t["entropy"], t["margin"], t["top_ids"],
                                      t["top_logits"]},
                              .precision = precision},
                             c);
        };
        const Tensors got = run_alone(packed);
        for (const char* name : {"argmax", "max_logit", "lse", "entropy", "margin", "top_ids", "top_logits"})
            CHECK(expected.values(name) == got.values(name));
    }
}

TEST_CASE("row_stats refuses") {
    check_refused(stats({.V = 20}, {.K = 21}), Code::invalid_argument, "top_ids has more columns");
    check_refused(stats({.V = 20}, {.K = 20, .excluded = 3}), Code::invalid_argument, "allowed tokens");
    check_refused(stats({.C = 1, .V = 2000}, {.K = 1025}), Code::invalid_argument, "1024");
    check_refused(stats({.V = 20}, {.excluded = 20}), Code::invalid_argument, "excluded_id");
    check_refused(stats({.V = 1}, {.excluded = 0}), Code::invalid_argument, "besides the excluded one");
    OpCase rows = stats({.V = 20}, {.rows = 3});
    field_of(rows, "rows").fill.values = {0, 5, 1};
    check_refused(rows, Code::invalid_argument, "rows[1] is 5, expected 0 to 4");
    OpCase list = stats({.V = 20}, {.K = 4});
    list.fields.pop_back();
    check_refused(list, Code::invalid_argument, "exactly when top_ids is");
}
