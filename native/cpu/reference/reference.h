// The reference backend: the obvious loops, read and written through these few accessors, whatever the dtype.
// A is the accumulator: double ("reference": the truth), or float ("naive": what an honest low-precision loop earns).
// This folder may include only the contract; it shares no code with the kernels it judges.
#pragma once

#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "noema/backend.h"

namespace noema::reference {

inline float bf16_to_float(uint16_t h) {
    return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

inline uint16_t float_to_bf16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    if (f != f) return static_cast<uint16_t>((u >> 16) | 0x40);
    return static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

float f16_to_float(uint16_t h);
uint16_t float_to_f16(float f);

/// Element at a linear offset (in elements).
template <class A>
A load(const View& v, int64_t offset) {
    switch (v.dtype) {
        case DType::f32: return static_cast<A>(v.as<float>()[offset]);
        case DType::f64: return static_cast<A>(v.as<double>()[offset]);
        case DType::bf16: return static_cast<A>(bf16_to_float(v.as<uint16_t>()[offset]));
        case DType::f16: return static_cast<A>(f16_to_float(v.as<uint16_t>()[offset]));
        case DType::i32: return static_cast<A>(v.as<int32_t>()[offset]);
        case DType::i64: return static_cast<A>(v.as<int64_t>()[offset]);
        case DType::u8: return static_cast<A>(v.as<uint8_t>()[offset]);
    }
    return A{};
}

template <class A>
void store(const View& v, int64_t offset, A value) {
    switch (v.dtype) {
        case DType::f32: v.as<float>()[offset] = static_cast<float>(value); break;
        case DType::f64: v.as<double>()[offset] = static_cast<double>(value); break;
        case DType::bf16: v.as<uint16_t>()[offset] = float_to_bf16(static_cast<float>(value)); break;
        case DType::f16: v.as<uint16_t>()[offset] = float_to_f16(static_cast<float>(value)); break;
        case DType::i32: v.as<int32_t>()[offset] = static_cast<int32_t>(value); break;
        case DType::i64: v.as<int64_t>()[offset] = static_cast<int64_t>(value); break;
        case DType::u8: v.as<uint8_t>()[offset] = static_cast<uint8_t>(value); break;
    }
}

/// Element (i, j, ...) of a view, any rank.
template <class... I>
int64_t offset_of(const View& v, I... index) {
    int64_t offset = 0;
    int axis = 0;
    ((offset += static_cast<int64_t>(index) * v.stride[axis++]), ...);
    return offset;
}
template <class A, class... I>
A get(const View& v, I... index) {
    return load<A>(v, offset_of(v, index...));
}
template <class A, class... I>
void set(const View& v, A value, I... index) {
    store<A>(v, offset_of(v, index...), value);
}
template <class A, class... I>
void add(const View& v, A value, I... index) {
    const int64_t o = offset_of(v, index...);
    store<A>(v, o, load<A>(v, o) + value);
}

/// What a product sees of a value: rounded to bf16 when the naive backend is asked for bf16; the truth never rounds.
template <class A>
A operand(A value, Precision precision) {
    if constexpr (std::is_same_v<A, double>) return value;
    return precision == Precision::bf16 ? static_cast<A>(bf16_to_float(float_to_bf16(static_cast<float>(value))))
                                        : value;
}

// One entry per op that the reference has: op_entry<A>(OpTable member), defined beside the op's loops.
#define NOEMA_OP_yes(name, Params) \
    template <class A>             \
    Op<Params> name##_entry();
#define NOEMA_OP_no(name, Params)
#define NOEMA_OP(name, Params, cpu, cuda, reference) NOEMA_OP_##reference(name, Params)
#include "noema/ops.def"
#undef NOEMA_OP
#undef NOEMA_OP_yes
#undef NOEMA_OP_no

}  // namespace noema::reference

/// Ends a file of the reference: names the loop that implements an op, for both accumulators.
#define NOEMA_REFERENCE_OP(name, Params)                                                               \
    template <class A>                                                                                 \
    Op<Params> name##_entry() {                                                                        \
        return {[](const Params& p, const Stream&, Workspace) { return name##_loop<A>(p); }, nullptr}; \
    }                                                                                                  \
    template Op<Params> name##_entry<double>();                                                        \
    template Op<Params> name##_entry<float>();
