#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "doctest/doctest.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16, DType::f64};

/// Raw elements of one row, padded so that a wrong length shows.
struct Row {
    DType dtype;
    std::vector<uint8_t> bytes;
    int64_t size() const { return static_cast<int64_t>(bytes.size() / dtype_size(dtype)); }
    View as_matrix() { return view(bytes.data(), dtype, 1, size()); }
};

template <class T>
Row row_of(DType dtype, const std::vector<T>& values) {
    Row row{dtype, std::vector<uint8_t>(values.size() * sizeof(T))};
    std::memcpy(row.bytes.data(), values.data(), row.bytes.size());
    return row;
}

Row converted(Row from, DType to, const char* backend) {
    Row y{to, std::vector<uint8_t>(from.size() * dtype_size(to))};
    Context context{find_backend(backend), {}, nullptr};
    const Status status = cast({.x = from.as_matrix(), .y = y.as_matrix()}, context);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return y;
}

Row converted_there(Row from, DType to, const std::string& device) {
    Row y{to, std::vector<uint8_t>(from.size() * dtype_size(to))};
    Engine& engine = device_engine(device);
    Buffer x_there(engine.backend(), from.bytes.size()), y_there(engine.backend(), y.bytes.size());
    REQUIRE(engine.upload(x_there.data(), from.bytes.data(), from.bytes.size()).ok());
    const auto there = [&](const Row& row, const Buffer& buffer) {
        return on_device(view(buffer.data(), row.dtype, 1, row.size()), engine.backend().device);
    };
    const Status status =
        engine.execute([&](Context& c) { return cast({.x = there(from, x_there), .y = there(y, y_there)}, c); });
    REQUIRE_MESSAGE(status.ok(), status.text);
    REQUIRE(engine.download(y.bytes.data(), y_there.data(), y.bytes.size()).ok());
    return y;
}

double value_at(const Row& row, int64_t i) {
    if (row.dtype == DType::f64) {
        double d;
        std::memcpy(&d, row.bytes.data() + i * 8, 8);
        return d;
    }
    const Row wide = converted(
        {row.dtype,
         {row.bytes.begin() + i * dtype_size(row.dtype), row.bytes.begin() + (i + 1) * dtype_size(row.dtype)}},
        DType::f64, "reference");
    return value_at(wide, 0);
}

/// The same bits, or both NaN.
void compare(const Row& from, const Row& got, const Row& expected, const std::string& where) {
    if (got.bytes == expected.bytes) return;
    const size_t size = dtype_size(got.dtype);
    int64_t wrong = 0;
    for (int64_t i = 0; i < got.size(); ++i) {
        if (std::memcmp(&got.bytes[i * size], &expected.bytes[i * size], size) == 0) continue;
        const double a = value_at(got, i), b = value_at(expected, i);
        if (std::isnan(a) && std::isnan(b)) continue;
        if (++wrong > 3) break;
        CHECK_MESSAGE(false, where, ": ", dtype_name(from.dtype), " ", value_at(from, i), " became ",
                      dtype_name(got.dtype), " ", a, ", expected ", b);
    }
}

void check_same(const Row& from, DType to) {
    const Row expected = converted(from, to, "reference");
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        EachIsa::use(isa);
        compare(from, converted(from, to, "cpu"), expected, isa);
    }
    for (const std::string& device : devices()) compare(from, converted_there(from, to, device), expected, device);
}

Row every_half(DType dtype) {
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    return row_of(dtype, all);
}

/// f32 values around every place where rounding to 16 bits turns, and every exponent.
std::vector<float> sharp_floats() {
    std::vector<float> out;
    for (uint32_t top = 0; top < 0x10000; top += 7)
        for (uint32_t low : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
            out.push_back(std::bit_cast<float>(top << 16 | low));
    for (uint32_t top = 0; top < 1u << 19; top += 61)
        for (uint32_t low : {0u, 0xFFFu, 0x1000u, 0x1001u}) out.push_back(std::bit_cast<float>(top << 13 | low));
    for (float f : {65503.9f, 65519.99f, 65520.0f, 65535.9f, 65536.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.8p-24f})
        out.insert(out.end(), {f, -f});
    return out;
}

std::vector<double> sharp_doubles() {
    std::vector<double> out;
    for (float f : sharp_floats())
        for (double nudge : {0.0, 0x1p-40, -0x1p-40}) out.push_back(f * (1 + nudge));
    for (double d : {1e-300, 1e300, 0x1.fffffefp127, 0x1.ffffffp127, 5e-324, 0x1p-150, 0x1.8p-149})
        out.insert(out.end(), {d, -d});
    return out;
}

}  // namespace

TEST_CASE("cast: every 16-bit value") {
    for (const DType from : {DType::bf16, DType::f16})
        for (const DType to : kFloats) check_same(every_half(from), to);
}

TEST_CASE("cast: every 16-bit value survives the way there and back") {
    for (const DType half : {DType::bf16, DType::f16})
        for (const DType wide : {DType::f32, DType::f64}) {
            const Row all = every_half(half), back = converted(converted(all, wide, "cpu"), half, "cpu");
            int64_t changed = 0;
            for (size_t i = 0; i < all.bytes.size(); i += 2) {
                uint16_t a, b;
                std::memcpy(&a, &all.bytes[i], 2);
                std::memcpy(&b, &back.bytes[i], 2);
                const uint16_t infinity = half == DType::bf16 ? 0x7F80 : 0x7C00;
                const bool nan = (a & 0x7FFF) > infinity;
                changed += nan ? (b & 0x7FFF) <= infinity : a != b;
            }
            CHECK(changed == 0);
        }
}

TEST_CASE("cast: ties, subnormals, overflow and NaN of wide values") {
    for (const DType to : kFloats) {
        check_same(row_of(DType::f32, sharp_floats()), to);
        check_same(row_of(DType::f64, sharp_doubles()), to);
    }
}

TEST_CASE("cast rounds a double once") {
    // Just above the tie between 1 and 1 + 2^-7: by way of f32 it would fall on the tie, and down to 1.
    const Row x = row_of(DType::f64, std::vector<double>{1 + 0x1p-8 + 0x1p-40});
    for (const char* backend : {"cpu", "reference"})
        CHECK(value_at(converted(x, DType::bf16, backend), 0) == 1 + 0x1p-7);
}

TEST_CASE("cast: sizes and strides") {
    for (const DType to : {DType::f32, DType::bf16})
        for (int64_t C : awkward_sizes(513)) {
            OpCase c{"cast 3x" + std::to_string(C),
                     {input("x", {3, C}), output("y", {3, C}, to)},
                     [](const Tensors& t, Context& context) { return cast({.x = t["x"], .y = t["y"]}, context); },
                     1};
            check(c);
        }
}

TEST_CASE("cast refuses") {
    OpCase c{"cast ids", {ids("x", {2, 3}, 0, 5), output("y", {2, 3})}, [](const Tensors& t, Context& context) {
                 return cast({.x = t["x"], .y = t["y"]}, context);
             }};
    check_refused(c, Code::invalid_argument, "x must be f32, bf16, f16 or f64");
    c.fields = {input("x", {2, 3}), output("y", {2, 4})};
    check_refused(c, Code::invalid_argument, "y has shape [2, 4], expected [2, 3]");
}
