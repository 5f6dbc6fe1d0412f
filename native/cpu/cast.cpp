#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cast.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

// Plain loops without branches: the compiler vectorises them for each instruction set, and integer arithmetic gives the
// same bits on all.

uint32_t bits_of(float f) {
    uint32_t u;
    std::memcpy(&u, &f, sizeof u);
    return u;
}
float float_of(uint32_t u) {
    float f;
    std::memcpy(&f, &u, sizeof f);
    return f;
}

void bf16_to_f32(const uint16_t* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = float_of(static_cast<uint32_t>(x[i]) << 16);
}

// A NaN is made quiet instead of rounded: rounding could carry it into infinity or the sign.
void f32_to_bf16(const float* x, uint16_t* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t u = bits_of(x[i]), rounded = u + 0x7FFF + (u >> 16 & 1);
        const bool nan = (u & 0x7FFFFFFF) > 0x7F800000;
        y[i] = static_cast<uint16_t>((nan ? u | 0x400000 : rounded) >> 16);
    }
}

// The exponent moves by 112 = 127 - 15 in a multiplication, which makes subnormals right too.
void f16_to_f32(const uint16_t* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t magnitude = static_cast<uint32_t>(x[i] & 0x7FFF) << 13;
        const uint32_t scaled = bits_of(float_of(magnitude) * 0x1p112f);
        const uint32_t special = magnitude >= 0x0F800000 ? 0x7F800000 : 0;
        y[i] = float_of(scaled | special | static_cast<uint32_t>(x[i] & 0x8000) << 16);
    }
}

// Under 2^-14 the sum with 0.5 rounds to a multiple of 2^-24, the step of f16's subnormals; above, the exponent moves
// and 13 bits are rounded off, where a carry out of 65504 gives infinity.
void f32_to_f16(const float* x, uint16_t* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t u = bits_of(x[i]), magnitude = u & 0x7FFFFFFF;
        const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000;
        const uint32_t normal = (magnitude - (112u << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
        const uint32_t special = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
        const uint32_t finite = magnitude < 0x38800000 ? small : normal;
        y[i] = static_cast<uint16_t>((magnitude >= 0x47800000 ? special : finite) | (u >> 16 & 0x8000));
    }
}

void f32_to_f64(const float* x, double* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = x[i];
}
void f64_to_f32(const double* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i]);
}

// On the way from f64 to 16 bits: towards zero, and the last bit set if anything was cut, so that the second rounding
// still sees which side of a tie the value was on.
void f64_to_odd_f32(const double* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const float near = static_cast<float>(x[i]);
        const bool cut = static_cast<double>(near) != x[i],
                   above = std::fabs(static_cast<double>(near)) > std::fabs(x[i]);
        y[i] = float_of((bits_of(near) - above) | static_cast<uint32_t>(cut));
    }
}

/// n values as f32: where they lie, or in `room`.
const float* as_f32(const View& x, const char* from, float* room, int64_t n, bool halves) {
    switch (x.dtype) {
        case DType::bf16: bf16_to_f32(reinterpret_cast<const uint16_t*>(from), room, n); break;
        case DType::f16: f16_to_f32(reinterpret_cast<const uint16_t*>(from), room, n); break;
        case DType::f64: (halves ? f64_to_odd_f32 : f64_to_f32)(reinterpret_cast<const double*>(from), room, n); break;
        default: return reinterpret_cast<const float*>(from);
    }
    return room;
}

void from_f32(const float* from, DType to, char* y, int64_t n) {
    switch (to) {
        case DType::bf16: return f32_to_bf16(from, reinterpret_cast<uint16_t*>(y), n);
        case DType::f16: return f32_to_f16(from, reinterpret_cast<uint16_t*>(y), n);
        case DType::f64: return f32_to_f64(from, reinterpret_cast<double*>(y), n);
        default: std::memcpy(y, from, sizeof(float) * n);
    }
}

void cast_rows(const Cast& p, int64_t first, int64_t last) {
    constexpr int64_t kBlock = 512;  // 2 KB on the stack, in L1 between the two conversions
    const int64_t C = p.x.shape[1], size_x = dtype_size(p.x.dtype), size_y = dtype_size(p.y.dtype);
    float room[kBlock];
    for (int64_t r = first; r < last; ++r) {
        const char* x = p.x.as<char>() + r * p.x.stride[0] * size_x;
        char* y = p.y.as<char>() + r * p.y.stride[0] * size_y;
        if (p.x.dtype == p.y.dtype) {
            std::memcpy(y, x, C * size_x);
            continue;
        }
        for (int64_t c = 0; c < C; c += kBlock) {
            const int64_t n = std::min(kBlock, C - c);
            from_f32(as_f32(p.x, x + c * size_x, room, n, size_y == 2), p.y.dtype, y + c * size_y, n);
        }
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(cast_rows);

namespace {

Status run(const Cast& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.x.shape[0], p.x.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(cast_rows)(p, first, last);
    });
    return {};
}

}  // namespace

Op<Cast> cast_entry() {
    return {run, nullptr};
}

}  // namespace noema::cpu
#endif
