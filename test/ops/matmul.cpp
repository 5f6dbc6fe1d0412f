#include <cmath>

#include "cpu/matmul_block.h"
#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Shape {
    int64_t M, N, K;
};

struct Options {
    Precision precision = Precision::f32;
    bool transpose_a = false;
    bool transpose_b = true;
    bool packed = false;
    DType a = DType::f32;
    DType b = DType::f32;
    bool bias = false;
    bool gate = false;
    bool residual = false;
    bool accumulate = false;
    Activation activation = Activation::none;
    double scale = 1;
};

std::string title_of(const Shape& s, const Options& o) {
    auto number = [](auto v) { return std::to_string(static_cast<long long>(v)); };
    std::string t = "matmul " + number(s.M) + "x" + number(s.N) + "x" + number(s.K);
    t += o.precision == Precision::bf16 ? " bf16 " : " f32 ";
    t += o.transpose_a ? "T" : "N";
    t += o.transpose_b ? "T" : "N";
    t += " a " + std::string(dtype_name(o.a)) + " b " + dtype_name(o.b);
    if (o.packed) t += " packed";
    if (o.bias) t += " bias";
    if (o.gate) t += " gate";
    if (o.residual) t += " residual";
    if (o.accumulate) t += " accumulate";
    if (o.activation != Activation::none) t += " activation " + number(o.activation);
    return t;
}

Matmul arguments(const Tensors& t, const Options& o) {
    return {.a = t["a"],
            .b = t["b"],
            .c = t["c"],
            .bias = t["bias"],
            .gate = t["gate"],
            .residual = t["residual"],
            .precision = o.precision,
            .activation = o.activation,
            .transpose_a = o.transpose_a,
            .transpose_b = o.transpose_b,
            .accumulate = o.accumulate};
}

/// Packs b where the backend has an arrangement (into the arena, behind the op's back), then multiplies.
Status run_matmul(const Tensors& t, Context& c, const Options& o) {
    Matmul p = arguments(t, o);
    ArenaScope scope(*c.arena);
    if (o.packed) {
        const size_t bytes = c.backend->packed_bytes(p.b, o.precision, !o.transpose_b);
        void* room = bytes ? c.arena->take(bytes) : nullptr;
        const MatmulPack pack{.weight = p.b, .packed = room, .precision = o.precision, .transposed = !o.transpose_b};
        if (bytes) NOEMA_TRY(matmul_pack(pack, c));
        p.packed_b = room;
    }
    return matmul(p, c);
}

OpCase multiply(const Shape& s, const Options& o) {
    const Fill small{.scale = o.scale};
    std::vector<Field> fields = {input("a", o.transpose_a ? std::vector{s.K, s.M} : std::vector{s.M, s.K}, small, o.a),
                                 input("b", o.transpose_b ? std::vector{s.N, s.K} : std::vector{s.K, s.N}, small, o.b),
                                 o.accumulate ? in_out("c", {s.M, s.N}) : output("c", {s.M, s.N})};
    if (o.bias) fields.push_back(input("bias", {s.N}));
    if (o.gate) fields.push_back(input("gate", {s.M, s.N}));
    if (o.residual) fields.push_back(input("residual", {s.M, s.N}));
    return {title_of(s, o), fields, [o](const Tensors& t, Context& c) { return run_matmul(t, c, o); }};
}

/// Every transposition, precision and packing.
void check_forms(const Shape& s) {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        for (const bool ta : {false, true})
            for (const bool tb : {false, true})
                check(multiply(s, {.precision = precision, .transpose_a = ta, .transpose_b = tb}));
        for (const bool tb : {false, true})
            check(multiply(s, {.precision = precision, .transpose_b = tb, .packed = true}));
    }
}

std::vector<double> product_of(Tensors t, const Options& o, const std::string& backend = "cpu") {
    static ThreadTeam one(1);
    OpCase op{"", {}, [&](const Tensors& tensors, Context& c) { return run_matmul(tensors, c, o); }};
    const Status status = backend == "cpu" ? run_on(op, t, "cpu", one) : run_on_device(op, t, device_engine(backend));
    REQUIRE_MESSAGE(status.ok(), status.text);
    return t.values("c");
}

/// Rows [first, first + count) of a big product against the same rows multiplied alone.
void check_rows_alone(const Shape& s, const Options& o, int64_t count, const std::string& backend = "cpu") {
    const OpCase whole = multiply(s, o);
    const Tensors big = make_tensors(whole.fields, whole.title, false, false);
    const std::vector<double> all = product_of(make_tensors(whole.fields, whole.title, false, false), o, backend);
    const std::vector<double> a = big.values("a");
    for (const int64_t first : {int64_t{0}, (s.M - count) / 2, s.M - count}) {
        OpCase part = multiply({count, s.N, s.K}, o);
        for (int64_t i = 0; i < count * s.K; ++i) {
            const int64_t m = first + (o.transpose_a ? i % count : i / s.K), k = o.transpose_a ? i / count : i % s.K;
            part.fields[0].fill.values.push_back(a[o.transpose_a ? k * s.M + m : m * s.K + k]);
        }
        for (Field& f : part.fields)
            if (f.name == "b" || f.name == "bias") f.fill.values = big.values(f.name);
        const std::vector<double> rows = product_of(make_tensors(part.fields, part.title, false, false), o, backend);
        const std::vector<double> expected(all.begin() + first * s.N, all.begin() + (first + count) * s.N);
        CHECK_MESSAGE(rows == expected, title_of(s, o), ": rows ", first, " + ", count,
                      " differ from the same rows alone");
    }
}

}  // namespace

TEST_CASE("matmul sizes") {
    for (int64_t K : awkward_sizes(131)) check_forms({5, 18, K});
    for (int64_t N : awkward_sizes(131)) check_forms({3, N, 19});
    for (int64_t M : awkward_sizes(131)) check_forms({M, 17, 21});
    for (int64_t M = 4; M <= 14; ++M) check_forms({M, 130, 9});
}

TEST_CASE("matmul across blocks") {
    // Over one block of K (256 f32, 512 bf16), over one slab (1024, 2048), over one tile and one chunk of rows and columns.
    check_forms({3, 33, 531});
    check_forms({97, 7, 1100});
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        check(multiply({98, 17, 2100}, {.precision = precision, .accumulate = true}));
        check(multiply({98, 1041, 5}, {.precision = precision, .transpose_b = false}));
        check(multiply({1160, 3, 6}, {.precision = precision}));
    }
}

TEST_CASE("matmul epilogues") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (const bool packed : {false, true})
            for (const Activation activation : {Activation::none, Activation::gelu_erf, Activation::gelu_tanh}) {
                Options o{.precision = precision, .packed = packed, .activation = activation};
                check(multiply({4, 35, 24}, o));
                o.bias = true;
                check(multiply({4, 35, 24}, o));
                o.gate = true;
                check(multiply({100, 35, 24}, o));
                o.residual = true;
                check(multiply({4, 35, 0}, o));
                o.accumulate = true;
                check(multiply({4, 35, 24}, o));
            }
    for (const Activation activation : {Activation::gelu_erf, Activation::gelu_tanh})
        for (const double scale : {1e-3, 3.0, 1e12})
            check(multiply({3, 64, 8}, {.activation = activation, .scale = scale}));
}

TEST_CASE("matmul in place of the residual") {
    OpCase op = multiply({9, 40, 1300}, {});
    op.fields[2] = in_out("c", {9, 40});
    op.run = [](const Tensors& t, Context& c) {
        Matmul p = arguments(t, {});
        p.residual = p.c;
        return matmul(p, c);
    };
    check(op);
}

TEST_CASE("matmul operand types") {
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (const bool transposed : {false, true})
            for (const DType a : {DType::f32, DType::bf16}) {
                Options o{.precision = precision, .transpose_a = transposed, .transpose_b = !transposed, .a = a};
                o.b = DType::bf16;
                check(multiply({6, 45, 77}, o));
                check(multiply({99, 45, 77}, o));
            }
    for (const bool transposed : {false, true}) {
        check(multiply({6, 45, 77}, {.transpose_b = !transposed, .packed = true, .b = DType::bf16}));
        check(multiply({6, 45, 77},
                       {.precision = Precision::bf16, .transpose_b = !transposed, .packed = true, .b = DType::bf16}));
    }
}

TEST_CASE("matmul rows do not depend on each other") {
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        INFO("instruction set ", isa);
        for (const Precision precision : {Precision::f32, Precision::bf16})
            for (const bool packed : {false, true})
                for (const int64_t count : {1, 2, 4, 5, 9, 33})
                    check_rows_alone({105, 140, 1090}, {.precision = precision, .packed = packed, .bias = true}, count);
        check_rows_alone({113, 40, 70}, {.transpose_a = true, .transpose_b = false}, 3);
    }
}

// Every kernel that a device has for a form: a few rows (up to 16, of which the weight is streamed), small and large tiles,
// chunks of K in one block and in blocks of their own. The emulated device has 4 multiprocessors.
TEST_CASE("matmul rows on a device do not depend on each other") {
    for (const std::string& device : devices()) {
        INFO("device ", device);
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            const Options weight{
                .precision = precision, .packed = true, .bias = true, .activation = Activation::gelu_erf};
            for (const int64_t count : {1, 3, 16, 17, 97}) check_rows_alone({150, 72, 400}, weight, count, device);
            check_rows_alone({520, 72, 300}, weight, 5, device);
            check_rows_alone({1100, 8, 300}, weight, 300, device);
            check_rows_alone({100, 16, 3656}, weight, 1, device);
            check_rows_alone({100, 300, 330}, {.precision = precision, .transpose_b = false}, 3, device);
            check_rows_alone({520, 24, 330}, {.precision = precision, .transpose_b = false}, 40, device);
            check_rows_alone({520, 24, 330}, {.precision = precision, .transpose_a = true, .transpose_b = false}, 40,
                             device);
        }
        if (device == "cuda-emulated") continue;
        // Wide enough for a vendor's library.
        for (const bool transposed : {false, true}) {
            const Options gradient{.precision = Precision::bf16, .transpose_a = transposed, .transpose_b = false};
            for (const int64_t count : {1, 40, 300}) check_rows_alone({600, 2048, 1024}, gradient, count, device);
        }
    }
}

TEST_CASE("matmul on the edges of a device's tiles") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        // Weights whose rows start at multiples of 16 bytes are streamed for up to 16 rows, by chunks of 256 and more.
        for (const int64_t M : {1, 2, 5, 16, 17})
            for (const int64_t K : {8, 32, 40, 64, 248, 256, 264, 1000})
                check(multiply({M, M == 5 ? 136 : 20, K}, {.precision = precision, .packed = true, .bias = true}));
        for (const int64_t K : {24, 64, 264}) {
            check(multiply({3, 70, K}, {.precision = precision, .a = DType::bf16, .b = DType::bf16}));
            check(multiply({65, 63, K}, {.precision = precision, .a = DType::bf16, .b = DType::bf16}));
            check(multiply({257, 136, K}, {.precision = precision, .a = DType::bf16, .b = DType::bf16}));
        }
        // Large tiles, then with several chunks in a block; below, each in its own.
        for (const bool ta : {false, true})
            for (const bool tb : {false, true}) {
                check(multiply({257, 130, 100}, {.precision = precision, .transpose_a = ta, .transpose_b = tb}));
                check(multiply({513, 7, 270},
                               {.precision = precision, .transpose_a = ta, .transpose_b = tb, .accumulate = true}));
            }
        check(multiply({100, 300, 300}, {.precision = precision}));
        check(multiply({100, 10, 3650}, {.precision = precision, .transpose_a = true, .transpose_b = false}));
        for (const bool tb : {false, true}) {
            check(multiply({7, 48, 40}, {.precision = precision, .transpose_b = tb, .accumulate = true}));
            check(multiply({7, 48, 40}, {.precision = precision, .transpose_b = tb, .residual = true}));
            check(multiply({7, 48, 40}, {.precision = precision,
                                         .transpose_b = tb,
                                         .bias = true,
                                         .gate = true,
                                         .residual = true,
                                         .accumulate = true,
                                         .activation = Activation::gelu_tanh}));
        }
    }
}

namespace {

struct EmulatedTiles {
    EmulatedTiles() { cpu::emulate_tiles(true); }
    ~EmulatedTiles() { cpu::emulate_tiles(false); }
};

}  // namespace

TEST_CASE("matmul on emulated AMX tiles") {
    EmulatedTiles scope;
    for (const int64_t M : {1, 2, 15, 16, 17, 31, 32, 33, 50})
        check(multiply({M, 40, 35}, {.precision = Precision::bf16}));
    for (const int64_t N : {1, 16, 17, 33, 65, 130})
        for (const int64_t M : {3, 20}) check(multiply({M, N, 64}, {.precision = Precision::bf16, .packed = true}));
    for (const int64_t K : {0, 1, 31, 33, 513, 1090}) check(multiply({18, 20, K}, {.precision = Precision::bf16}));
    check(multiply({100, 270, 40}, {.precision = Precision::bf16, .transpose_a = true, .transpose_b = false}));
    for (const bool packed : {false, true})
        for (const int64_t count : {1, 16, 17, 33})
            check_rows_alone({113, 150, 600}, {.precision = Precision::bf16, .packed = packed}, count);
}

TEST_CASE("matmul keeps what is not finite") {
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            OpCase op = multiply({3, 20, 40}, {.precision = precision});
            op.fields[0].fill.values.assign(3 * 40, 1.0);
            op.fields[0].fill.values[5] = NAN;
            op.fields[0].fill.values[40 + 7] = INFINITY;
            const std::vector<double> c =
                product_of(make_tensors(op.fields, op.title, false, false), {.precision = precision});
            for (int n = 0; n < 20; ++n) {
                CHECK(std::isnan(c[n]));
                CHECK(std::isinf(c[20 + n]));
                CHECK(std::isfinite(c[40 + n]));
            }
        }
    }
}

TEST_CASE("matmul refuses") {
    OpCase op = multiply({2, 3, 4}, {});
    op.fields[1] = input("b", {3, 5});
    check_refused(op, Code::invalid_argument, "b has shape [3, 5], expected [3, 4]");
    op = multiply({2, 3, 4}, {.bias = true});
    op.fields[3] = input("bias", {4});
    check_refused(op, Code::invalid_argument, "bias has shape [4], expected [3]");
    op = multiply({2, 3, 4}, {});
    op.fields[0] = input("a", {2, 4}, {}, DType::f16);
    check_refused(op, Code::invalid_argument, "a is f16, expected f32 or bf16");

    op = multiply({4, 4, 4}, {});
    auto refuse = [&](auto change, const char* mentions) {
        op.run = [=](const Tensors& t, Context& c) {
            Matmul p = arguments(t, {});
            change(p);
            return matmul(p, c);
        };
        check_refused(op, Code::invalid_argument, mentions);
    };
    refuse([](Matmul& p) { p.c = p.a; }, "c may not overlap a");
    refuse([](Matmul& p) { p.c = p.b; }, "c may not overlap b");
    refuse([](Matmul& p) { p.c.stride[0] = 3; }, "c has rows that overlap");
    refuse([](Matmul& p) { p.packed_b = p.b.as<std::byte>() + 1; }, "packed_b must be 64-byte aligned");
    refuse([](Matmul& p) { p.residual = p.c, p.residual.data = p.c.as<float>() + 1; }, "residual may be c but");
}

TEST_CASE("matmul takes windows of one buffer") {
    // The columns 0..3 of a row are a, the columns 4..7 are c.
    OpCase op{
        "matmul windows", {input("b", {4, 4}), contiguous(in_out("both", {5, 8}))}, [](const Tensors& t, Context& c) {
            View a = t["both"];
            a.shape[1] = 4;
            View out = a;
            out.data = a.as<std::byte>() + 4 * dtype_size(a.dtype);
            return matmul({.a = a, .b = t["b"], .c = out}, c);
        }};
    check(op);
}
