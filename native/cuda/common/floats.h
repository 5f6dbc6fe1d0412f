// f16 and f64 as bits and arithmetic: both devices compute the same.
#pragma once

#include "device.h"

namespace noema::cuda {

struct f16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(f16 x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, m = x.bits & 0x7FFF;
    if (m >= 0x7C00) return __uint_as_float(sign | (0x70000000u + (m << 13)));  // infinity, NaN
    if (m >= 0x0400) return __uint_as_float(sign | (0x38000000u + (m << 13)));
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(m) * 0x1p-24f));
}

/// Nearest even.
__device__ __forceinline__ f16 to_f16(float x) {
    const uint32_t u = __float_as_uint(x), m = u & 0x7FFFFFFFu;
    const uint16_t sign = static_cast<uint16_t>(u >> 16 & 0x8000);
    uint32_t h;
    if (m > 0x7F800000u)
        h = 0x7E00;  // NaN
    else if (m >= 0x477FF000u)
        h = 0x7C00;  // 65520 and more
    else if (m >= 0x38800000u)
        h = (m - 0x38000000u + 0xFFFu + (m >> 13 & 1)) >> 13;
    else
        h = __float_as_uint(__uint_as_float(m) + 0.5f) - 0x3F000000u;  // subnormal: 0.5's last place is 2^-24
    return {static_cast<uint16_t>(sign | h)};
}

// Rounding a double to f32 and then to 16 bits could round a tie twice. Rounded to odd (towards zero, and the last bit
// set if anything was cut) the f32 still tells a tie from its neighbours.
__device__ __forceinline__ float rounded_to_odd(double x) {
    const float near = static_cast<float>(x);
    const double back = static_cast<double>(near);
    if (x != x || back == x) return near;
    const uint32_t u = __float_as_uint(near);
    return __uint_as_float((fabs(back) > fabs(x) ? u - 1 : u) | 1u);
}

}  // namespace noema::cuda
