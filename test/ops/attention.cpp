#include <algorithm>
#include <array>
#include <cmath>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

/// One call: sizes, masks and how the tensors lie in memory.
struct Shape {
    int64_t B = 2, Tq = 5, Tk = 5, H = 2, Hkv = 2, D = 8;
    bool causal = false, starts = false, ends = false, save_lse = true;
    int64_t window = 0, offset = 0;
    bool fused = false;  // q, k, v are slices of one [B, T, (H + 2 Hkv) D]
    double magnitude = 1;
    Precision precision = Precision::f32;
    bool one_by_one = false;

    std::string title() const {
        std::string text = "attention";
        for (int64_t n : {B, Tq, Tk, H, Hkv, D}) text.append(" ").append(std::to_string(n));
        text += causal ? " causal" : "";
        text += (starts ? " starts" : "") + std::string(ends ? " ends" : "") + (fused ? " fused" : "");
        text.append(" window ").append(std::to_string(window)).append(" offset ").append(std::to_string(offset));
        return text + (precision == Precision::bf16 ? " bf16" : "") + (one_by_one ? " one by one" : "") + " x" +
               std::to_string(magnitude);
    }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(D)); }
};

std::vector<Field> sources(const Shape& s) {
    const Fill fill{.scale = s.magnitude};
    std::vector<Field> fields;
    if (s.fused)
        fields = {input("qkv", {s.B, s.Tq, (s.H + 2 * s.Hkv) * s.D}, fill)};
    else
        fields = {input("q", {s.B, s.Tq, s.H, s.D}, fill), input("k", {s.B, s.Tk, s.Hkv, s.D}, fill),
                  input("v", {s.B, s.Tk, s.Hkv, s.D})};
    // Ends may lie before starts: such a sequence has no visible key at all.
    if (s.starts) fields.push_back(ids("key_start", {s.B}, 0, s.Tk / 2 + 1));
    if (s.ends) fields.push_back(ids("key_end", {s.B}, s.Tk / 4, s.Tk + 1));
    return fields;
}

/// q, k or v: the n-th of the tensors, or heads [first, first + heads) of the fused rows.
View source(const Shape& s, const Tensors& t, const std::string& name) {
    if (!s.fused) return t[name];
    const View all = t["qkv"];
    const int64_t first = name == "q" ? 0 : name == "k" ? s.H : s.H + s.Hkv;
    View v = view(all.as<uint8_t>() + first * s.D * dtype_size(all.dtype), all.dtype, s.B, s.Tq,
                  name == "q" ? s.H : s.Hkv, s.D);
    v.stride[0] = all.stride[0];
    v.stride[1] = all.stride[1];
    v.stride[2] = s.D;
    return on_device(v, all.device);
}

AttentionMask mask(const Shape& s, const Tensors& t) {
    return {.key_start = t["key_start"],
            .key_end = t["key_end"],
            .query_offset = s.offset,
            .window = s.window,
            .causal = s.causal};
}

OpCase forward(const Shape& s) {
    std::vector<Field> fields = sources(s);
    fields.push_back(output("out", {s.B, s.Tq, s.H, s.D}));
    if (s.save_lse) fields.push_back(output("lse", {s.B, s.H, s.Tq}));
    return {s.title(), fields, [s](const Tensors& t, Context& c) {
                return attention({.q = source(s, t, "q"),
                                  .k = source(s, t, "k"),
                                  .v = source(s, t, "v"),
                                  .out = t["out"],
                                  .lse = t["lse"],
                                  .mask = mask(s, t),
                                  .scale = s.scale(),
                                  .precision = s.precision,
                                  .one_by_one = s.one_by_one},
                                 c);
            }};
}

OpCase backward(const Shape& s) {
    std::vector<Field> fields = sources(s);
    for (const char* name : {"out", "d_out"}) fields.push_back(input(name, {s.B, s.Tq, s.H, s.D}));
    fields.push_back(input("lse", {s.B, s.H, s.Tq}));
    fields.push_back(output("d_q", {s.B, s.Tq, s.H, s.D}));
    for (const char* name : {"d_k", "d_v"}) fields.push_back(output(name, {s.B, s.Tk, s.Hkv, s.D}));
    return {s.title(), fields, [s](const Tensors& t, Context& c) {
                return attention_backward({.q = source(s, t, "q"),
                                           .k = source(s, t, "k"),
                                           .v = source(s, t, "v"),
                                           .out = t["out"],
                                           .lse = t["lse"],
                                           .d_out = t["d_out"],
                                           .d_q = t["d_q"],
                                           .d_k = t["d_k"],
                                           .d_v = t["d_v"],
                                           .mask = mask(s, t),
                                           .scale = s.scale(),
                                           .precision = s.precision},
                                          c);
            }};
}

/// Backward with what the reference's forward saved.
OpCase backward_of_forward(const Shape& s) {
    static ThreadTeam one(1);
    const OpCase f = forward(s);
    const Tensors t = make_tensors(f.fields, f.title, false, false);
    REQUIRE(run_on(f, t, "reference", one).ok());
    OpCase b = backward(s);
    for (Field& field : b.fields)
        if (field.name == "out" || field.name == "lse") field.fill.values = t.values(field.name);
    // Where one key takes all, d_q and d_k are differences d_P - delta of equal numbers, and the naive loop, which sums
    // both in one order, hits 0 exactly. Two roundings of such a sum (about 8) times scale and k or q are allowed.
    b.allowance = 2e-6 * std::max(1.0, s.magnitude);
    return b;
}

void check_both(const Shape& s) {
    check(forward(s));
    check(backward_of_forward(s));
}

}  // namespace

TEST_CASE("attention: head widths") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (int64_t D : {1, 5, 8, 32, 48, 64, 80, 128, 256})
            check_both({.B = 1, .Tq = 9, .Tk = 19, .H = 1, .Hkv = 1, .D = D, .precision = precision});
}

TEST_CASE("attention: lengths") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (int64_t T : {0, 1, 2, 15, 16, 17, 47, 48, 49, 127, 128, 129, 257}) {
            check_both({.B = 1, .Tq = 7, .Tk = T, .H = 1, .Hkv = 1, .D = 16, .precision = precision});
            check_both({.B = 1, .Tq = T, .Tk = 33, .H = 1, .Hkv = 1, .D = 16, .precision = precision});
        }
    for (int64_t B : {0, 1, 3}) check_both({.B = B});
}

TEST_CASE("attention: many keys, many queries") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        for (int64_t D : {128, 256})
            check_both({.B = 1, .Tq = 70, .Tk = 70, .H = 1, .Hkv = 1, .D = D, .causal = true, .precision = precision});
        // Several parts of keys, with a block each or, with more sequences, one after the other.
        for (int64_t B : {1, 4})
            for (int64_t D : {31, 128, 256})
                check(forward(
                    {.B = B, .Tq = 2, .Tk = 700, .H = 1, .Hkv = 1, .D = D, .ends = true, .precision = precision}));
        for (int64_t window : {0, 500})
            check(forward({.B = 1,
                           .Tq = 20,
                           .Tk = 1130,
                           .H = 6,
                           .Hkv = 2,
                           .D = 32,
                           .causal = true,
                           .window = window,
                           .offset = 1100,
                           .precision = precision}));
    }
    // What tensor cores have forms of their own for.
    for (int64_t H : {1, 2})
        check(forward(
            {.B = 1, .Tq = 270, .Tk = 270, .H = H, .Hkv = H, .D = 64, .causal = true, .precision = Precision::bf16}));
    check_both({.B = 1,
                .Tq = 140,
                .Tk = 270,
                .H = 2,
                .Hkv = 1,
                .D = 32,
                .causal = true,
                .offset = 130,
                .precision = Precision::bf16});
}

TEST_CASE("attention: every combination of masks") {
    for (int bits = 0; bits < 32; ++bits) {
        Shape s{.B = 3, .Tq = 20, .Tk = 150, .H = 2, .Hkv = 1, .D = 16};
        s.causal = bits & 1;
        s.starts = bits & 2;
        s.ends = bits & 4;
        s.window = s.causal && bits & 8 ? 11 : 0;
        s.offset = bits & 16 ? 125 : 0;
        s.precision = bits % 3 ? Precision::f32 : Precision::bf16;
        check_both(s);
    }
    for (int64_t window : {1, 2, 64, 128, 1000})
        check_both({.B = 1, .Tq = 140, .Tk = 140, .D = 8, .causal = true, .window = window});
    check_both({.B = 1, .Tq = 10, .Tk = 20, .causal = true, .window = 4, .offset = 500});  // past every key
}

TEST_CASE("attention: queries one by one") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (const int64_t D : {2, 8, 33, 64, 100})
            for (const bool fused : {false, true}) {
                const Shape s{.Tq = 7,
                              .Tk = fused ? 7 : 19,
                              .D = D,
                              .causal = true,
                              .save_lse = false,
                              .offset = fused ? 0 : 12,
                              .fused = fused,
                              .precision = precision,
                              .one_by_one = true};
                check(forward(s));
            }
    // More than a task's queries, the last of them no whole group.
    check(forward({.Tq = 70, .Tk = 75, .causal = true, .save_lse = false, .offset = 5, .one_by_one = true}));
    check(forward({.Tq = 4, .Tk = 2, .causal = true, .save_lse = false, .offset = 1, .one_by_one = true}));
    check(forward({.Tq = 0, .Tk = 0, .causal = true, .save_lse = false, .one_by_one = true}));
    check_refused(forward({.one_by_one = true}), Code::invalid_argument, "one_by_one takes a causal mask alone");
    check_refused(forward({.causal = true, .one_by_one = true}), Code::invalid_argument, "no lse");
}

TEST_CASE("attention: grouped heads, fused rows") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (int64_t group : {1, 2, 3, 7}) {
            check_both({.Tq = 21, .Tk = 40, .H = 2 * group, .Hkv = 2, .D = 8, .precision = precision});
            check_both({.Tq = 60,
                        .Tk = 60,
                        .H = group,
                        .Hkv = 1,
                        .D = 20,
                        .causal = true,
                        .fused = true,
                        .precision = precision});
        }
    check_both({.Tq = 30, .Tk = 30, .H = 4, .Hkv = 4, .D = 32, .fused = true});
    check(forward({.save_lse = false}));
}

TEST_CASE("attention: large and tiny scores") {
    for (const double magnitude : {1e-20, 30.0, 1e4}) check_both({.Tq = 9, .Tk = 200, .D = 8, .magnitude = magnitude});
    // Scores near 1e32: the largest takes all, exactly.
    check(forward({.Tq = 9, .Tk = 200, .D = 8, .magnitude = 1e16}));
}

TEST_CASE("attention: no visible key") {
    Shape s{.B = 2, .Tq = 3, .Tk = 130, .H = 1, .Hkv = 1, .D = 4, .ends = true};
    OpCase c = forward(s);
    for (Field& f : c.fields)
        if (f.name == "key_end") f.fill.values = {0, 129};
    check(c);
    ThreadTeam one(1);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    REQUIRE(run_on(c, t, "cpu", one).ok());
    for (int i = 0; i < 3; ++i) CHECK(t.values("lse")[i] == -INFINITY);
    for (int i = 0; i < 12; ++i) CHECK(t.values("out")[i] == 0.0);
}

namespace {

/// Values of rows [first, first + n) of axis 1 of sequence b.
std::vector<double> slice(const std::vector<double>& values, const std::vector<int64_t>& shape, int64_t b,
                          int64_t first, int64_t n) {
    const int64_t row = shape[2] * shape[3];
    const auto start = values.begin() + (b * shape[1] + first) * row;
    return {start, start + n * row};
}

/// Runs with given q, k, v.
std::vector<double> outputs(const Shape& s, std::vector<double> q, std::vector<double> k, std::vector<double> v,
                            const std::string& backend = "cpu") {
    static ThreadTeam two(2);
    OpCase c = forward(s);
    c.fields[0].fill.values = std::move(q);
    c.fields[1].fill.values = std::move(k);
    c.fields[2].fill.values = std::move(v);
    Tensors t = make_tensors(c.fields, c.title, false, false);
    const Status status = backend == "cpu" ? run_on(c, t, "cpu", two) : run_on_device(c, t, device_engine(backend));
    REQUIRE_MESSAGE(status.ok(), status.text);
    return t.values("out");
}

void check_rows_alone(const Shape& s, const std::string& backend = "cpu") {
    const OpCase c = forward(s);
    const Tensors t = make_tensors(c.fields, c.title, false, false);
    const std::vector<double> q = t.values("q"), k = t.values("k"), v = t.values("v");
    const std::vector<int64_t> q_shape{s.B, s.Tq, s.H, s.D}, k_shape{s.B, s.Tk, s.Hkv, s.D};
    const std::vector<double> all = outputs(s, q, k, v, backend);
    for (const auto& [b, first, n] : {std::array<int64_t, 3>{0, 0, 1},
                                      {1, 5, 1},
                                      {0, 47, 2},
                                      {1, 100, 7},
                                      {0, 90, 60},
                                      {1, s.Tq - 1, 1},
                                      {0, 0, s.Tq}}) {
        Shape few = s;
        few.B = 1;
        few.Tq = n;
        few.offset = s.offset + first;
        const std::vector<double> alone = outputs(few, slice(q, q_shape, b, first, n), slice(k, k_shape, b, 0, s.Tk),
                                                  slice(v, k_shape, b, 0, s.Tk), backend);
        CHECK(alone == slice(all, q_shape, b, first, n));
    }
}

}  // namespace

TEST_CASE("attention: a row does not depend on the rows beside it") {
    EachIsa isas;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        for (const std::string& isa : isas.names) {
            EachIsa::use(isa);
            INFO("instruction set ", isa);
            check_rows_alone({.Tq = 150, .Tk = 300, .H = 4, .Hkv = 2, .D = 24, .precision = precision});
            check_rows_alone({.Tq = 150, .Tk = 150, .D = 64, .causal = true, .window = 60, .precision = precision});
        }
    }
    // Enough keys for several parts, enough queries for every way to cut a call.
    for (const std::string& device : devices()) {
        INFO("device ", device);
        check_rows_alone({.Tq = 150, .Tk = 600, .H = 2, .Hkv = 1, .D = 24}, device);
        for (int64_t D : {32, 64, 128})
            check_rows_alone({.Tq = 260, .Tk = 600, .H = 1, .Hkv = 1, .D = D, .precision = Precision::bf16}, device);
        check_rows_alone({.Tq = 150,
                          .Tk = 1100,
                          .H = 2,
                          .Hkv = 1,
                          .D = 24,
                          .causal = true,
                          .window = 560,
                          .offset = 800,
                          .precision = Precision::bf16},
                         device);
    }
}

TEST_CASE("attention: hidden keys may hold anything") {
    Shape s{.B = 1, .Tq = 3, .Tk = 140, .H = 1, .Hkv = 1, .D = 8, .causal = true, .window = 9, .offset = 20};
    OpCase c = forward(s);
    const Tensors clean = make_tensors(c.fields, c.title, false, false);
    for (const char* name : {"k", "v"}) {
        std::vector<double> values = clean.values(name);
        for (int64_t j = 0; j < s.Tk; ++j)
            if (j > 22 || j <= 20 - 9) std::fill_n(values.begin() + j * 8, 8, NAN);
        c.fields[name[0] == 'k' ? 1 : 2].fill.values = values;
    }
    check(c);
}

TEST_CASE("attention: NaN stays in its row and is not lost") {
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        INFO("instruction set ", isa);
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            const Shape s{.B = 1, .Tq = 6, .Tk = 40, .H = 1, .Hkv = 1, .D = 8, .precision = precision};
            const OpCase c = forward(s);
            const Tensors t = make_tensors(c.fields, c.title, false, false);
            std::vector<double> q = t.values("q");
            const std::vector<double> clean = outputs(s, q, t.values("k"), t.values("v"));
            q[8 * 2 + 3] = NAN;
            const std::vector<double> out = outputs(s, q, t.values("k"), t.values("v"));
            for (size_t i = 0; i < out.size(); ++i) CHECK((i / 8 == 2 ? std::isnan(out[i]) : out[i] == clean[i]));
            for (const std::string& device : devices()) {
                const std::vector<double> there = outputs(s, q, t.values("k"), t.values("v"), device);
                for (size_t i = 0; i < there.size(); ++i) CHECK((i / 8 == 2) == std::isnan(there[i]));
            }
        }
    }
}

TEST_CASE("attention: gradients") {
    for (int bits = 0; bits < 8; ++bits) {
        Shape s{.B = 2, .Tq = 6, .Tk = 7, .H = 4, .Hkv = 2, .D = 5};
        s.causal = bits & 1;
        s.window = s.causal && bits & 2 ? 3 : 0;
        s.starts = s.ends = bits & 4;
        s.offset = 1;
        check_gradient({forward(s), backward(s), {{"out", "d_out"}}, {{"q", "d_q"}, {"k", "d_k"}, {"v", "d_v"}}});
    }
}

TEST_CASE("attention refuses") {
    const auto changed = [](const Shape& s, const std::string& field, std::vector<int64_t> shape) {
        OpCase c = forward(s);
        for (Field& f : c.fields)
            if (f.name == field) f.shape = shape;
        return c;
    };
    check_refused(changed({}, "v", {2, 5, 2, 7}), Code::invalid_argument,
                  "v has shape [2, 5, 2, 7], expected [2, 5, 2, 8]");
    check_refused(changed({}, "lse", {2, 5, 2}), Code::invalid_argument, "lse has shape");
    check_refused(forward({.H = 3, .Hkv = 2}), Code::invalid_argument, "k must have a number of heads");
    check_refused(forward({.D = 257}), Code::invalid_argument, "1 to 256");
    check_refused(forward({.window = 3}), Code::invalid_argument, "window needs causal");
    check_refused(forward({.causal = true, .window = -1}), Code::invalid_argument, "window");
    check_refused(forward({.offset = -1}), Code::invalid_argument, "query_offset");
    OpCase c = forward({.ends = true});
    for (Field& f : c.fields)
        if (f.name == "key_end") f.fill.values = {5, 6};
    check_refused(c, Code::invalid_argument, "key_end[1] is 6, expected 0 to 5");
    OpCase aliased = backward({});
    aliased.run = [](const Tensors& t, Context& context) {
        return attention_backward({.q = t["q"],
                                   .k = t["k"],
                                   .v = t["v"],
                                   .out = t["out"],
                                   .lse = t["lse"],
                                   .d_out = t["d_out"],
                                   .d_q = t["d_out"],
                                   .d_k = t["d_k"],
                                   .d_v = t["d_v"]},
                                  context);
    };
    check_refused(aliased, Code::invalid_argument, "d_q (or d_k, d_v) may not be an input");
}
