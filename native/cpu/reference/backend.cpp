#include <cstdlib>

#include "reference.h"

namespace noema {

namespace reference {

namespace {

float f16_subnormal(uint16_t mantissa) {
    return static_cast<float>(mantissa) * 0x1p-24f;
}

template <class A>
Backend make(const char* name) {
    Backend b;
    b.name = name;
#define NOEMA_OP_yes(name) b.ops.name = name##_entry<A>();
#define NOEMA_OP_no(name)
#define NOEMA_OP(name, Params, cpu, cuda, reference) NOEMA_OP_##reference(name)
#include "noema/ops.def"
#undef NOEMA_OP
#undef NOEMA_OP_yes
#undef NOEMA_OP_no
    b.allocate = [](size_t bytes) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); };
    b.release = [](void* memory) { std::free(memory); };
    use_host_memory(b);
    b.packed_bytes = [](const View&, Precision, bool) { return size_t{0}; };
    return b;
}

}  // namespace

float f16_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FF;
    if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(f16_subnormal(mantissa)));
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t float_to_f16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const uint16_t sign = static_cast<uint16_t>(u >> 16 & 0x8000);
    const float a = std::fabs(f);
    if (f != f) return sign | 0x7E00;
    if (a >= 65520.0f) return sign | 0x7C00;
    if (a < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(a * 0x1p24f));
    const uint32_t v = std::bit_cast<uint32_t>(a) - (112u << 23);
    return sign | static_cast<uint16_t>((v + 0xFFF + (v >> 13 & 1)) >> 13);
}

}  // namespace reference

const Backend* reference_backend() {
    static const Backend backend = reference::make<double>("reference");
    return &backend;
}

const Backend* naive_backend() {
    static const Backend backend = reference::make<float>("naive");
    return &backend;
}

}  // namespace noema
