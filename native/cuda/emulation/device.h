// hardware/device.h's names for a compiler that knows no CUDA: every thread of a block is a fiber, blocks run one after the
// other (all at once in a cooperative launch), and what a GPU lets pass is reported with kernel, block and thread:
//   shared memory read before it was written, or out of its array
//   two threads that touch the same shared memory without a barrier between them, one of them writing
//   barriers that some threads of a block do not reach, or reach in another place; warp operations likewise
//   a copy from device memory that nobody waited for (it happens only in copy_async_wait)
// Device memory is out of the host's reach but for the time a kernel or a copy runs.
// What it cannot see: time, the memory model's races through device memory, how wgmma and the bulk copy engine behave.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

namespace noema::cuda::emulation {

/// Where a report points to.
struct Site {
    const char* file;
    int line;
};

struct Place {
    uint3 thread, block;
    dim3 block_size, grid_size;
    int index;  // of the thread in its block
};
/// The thread that is running.
const Place& here();

/// Ends the kernel; the launch returns an error with this text, the kernel's name, block and thread. Does not return.
[[noreturn]] [[gnu::format(printf, 1, 2)]] void report(const char* format, ...);

void block_barrier(Site);
/// Barriers of the threads of a warp that `mask` names; memory is ordered only by the first.
void warp_barrier(unsigned mask, Site);
/// Gives `bytes` (at most 32) of every lane to all lanes of the mask; a lane outside of it has null.
struct Exchange {
    const void* lane[32];
};
const Exchange& exchange(unsigned mask, const void* mine, size_t bytes, Site);
/// Arriving adds `mine` to the counter and gives what it was; waiting lasts until its top bit is another.
unsigned arrive_at_counter(unsigned* counter, unsigned mine, Site);
void wait_at_counter(const unsigned* counter, unsigned before, Site);

/// A block's shared memory: where an array starts, and the check of every access.
unsigned char* static_shared(const void* tag, size_t bytes);
unsigned char* dynamic_shared_memory(size_t offset, size_t bytes);
/// claim: from now on an asynchronous copy may write there at any time.
enum class Access : uint8_t { read, write, atomic, claim };
void touch_shared(const void* at, size_t bytes, const void* low, const void* high, Access);
uint32_t shared_address(const void* p);

void queue_copy(void* to, const void* from, int bytes, const void* low, const void* high);
void close_copies();
void finish_copies(int pending);

}  // namespace noema::cuda::emulation

// Objects, not macros: runtime.h has members of the same names.
namespace noema::cuda::emulation {

enum class Which { thread, block, block_size, grid_size };
template <Which which, int axis>
struct Coordinate {
    operator unsigned int() const {
        const Place& p = here();
        const auto part = [](const auto& v) { return axis == 0 ? v.x : axis == 1 ? v.y : v.z; };
        if constexpr (which == Which::thread) return part(p.thread);
        if constexpr (which == Which::block) return part(p.block);
        if constexpr (which == Which::block_size) return part(p.block_size);
        if constexpr (which == Which::grid_size) return part(p.grid_size);
    }
};
template <Which which>
struct Coordinates {
    Coordinate<which, 0> x;
    Coordinate<which, 1> y;
    Coordinate<which, 2> z;
};

}  // namespace noema::cuda::emulation

constexpr noema::cuda::emulation::Coordinates<noema::cuda::emulation::Which::thread> threadIdx{};
constexpr noema::cuda::emulation::Coordinates<noema::cuda::emulation::Which::block> blockIdx{};
constexpr noema::cuda::emulation::Coordinates<noema::cuda::emulation::Which::block_size> blockDim{};
constexpr noema::cuda::emulation::Coordinates<noema::cuda::emulation::Which::grid_size> gridDim{};

#define NOEMA_SITE (::noema::cuda::emulation::Site{__FILE__, __LINE__})
#define __syncthreads() ::noema::cuda::emulation::block_barrier(NOEMA_SITE)
#define __syncwarp(...) \
    ::noema::cuda::emulation::warp_barrier(::noema::cuda::emulation::mask_or_all(__VA_ARGS__), NOEMA_SITE)
#define __shfl_sync(mask, value, ...) \
    ::noema::cuda::emulation::shuffle(mask, value, NOEMA_SITE, ::noema::cuda::emulation::Direct{__VA_ARGS__})
#define __shfl_xor_sync(mask, value, ...) \
    ::noema::cuda::emulation::shuffle(mask, value, NOEMA_SITE, ::noema::cuda::emulation::Xor{__VA_ARGS__})
#define __shfl_down_sync(mask, value, ...) \
    ::noema::cuda::emulation::shuffle(mask, value, NOEMA_SITE, ::noema::cuda::emulation::Down{__VA_ARGS__})
#define __shfl_up_sync(mask, value, ...) \
    ::noema::cuda::emulation::shuffle(mask, value, NOEMA_SITE, ::noema::cuda::emulation::Up{__VA_ARGS__})
#define __ballot_sync(mask, predicate) ::noema::cuda::emulation::ballot(mask, (predicate) != 0, NOEMA_SITE)
#define __any_sync(mask, predicate) (::noema::cuda::emulation::ballot(mask, (predicate) != 0, NOEMA_SITE) != 0)
#define __all_sync(mask, predicate) (::noema::cuda::emulation::ballot(mask, (predicate) == 0, NOEMA_SITE) == 0)

namespace noema::cuda::emulation {

inline unsigned mask_or_all(unsigned mask = 0xFFFFFFFFu) {
    return mask;
}
inline int lane_index() {
    return here().index % 32;
}

// Source lanes, as the PTX manual defines shfl: `width` cuts the warp into segments; a source outside the segment leaves a
// thread with its own value.
struct Direct {
    int source = 0, width = 32;
    int lane(int me) const { return me / width * width + source % width; }
};
struct Xor {
    int bits = 0, width = 32;
    int lane(int me) const { return (me ^ bits) / width <= me / width ? me ^ bits : me; }
};
struct Down {
    unsigned delta = 0;
    int width = 32;
    int lane(int me) const {
        const int source = me + static_cast<int>(delta);
        return source / width == me / width ? source : me;
    }
};
struct Up {
    unsigned delta = 0;
    int width = 32;
    int lane(int me) const {
        const int source = me - static_cast<int>(delta);
        return source >= me / width * width ? source : me;
    }
};

template <class T, class Way>
T shuffle(unsigned mask, T value, Site site, Way way) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    const int source = way.lane(lane_index());
    const Exchange& all = exchange(mask, &value, sizeof value, site);
    if (!all.lane[source]) report("a shuffle reads lane %d, which is not in its mask %08x", source, mask);
    T result;
    std::memcpy(&result, all.lane[source], sizeof result);
    return result;
}

inline unsigned ballot(unsigned mask, bool predicate, Site site) {
    const Exchange& all = exchange(mask, &predicate, sizeof predicate, site);
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i)
        if (all.lane[i] && *static_cast<const bool*>(all.lane[i])) votes |= 1u << i;
    return votes;
}

}  // namespace noema::cuda::emulation

// --- CUDA's functions ------------------------------------------------------------------------------------------------

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct int2 {
    int x, y;
};
struct uint2 {
    unsigned int x, y;
};
struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline int2 make_int2(int x, int y) {
    return {x, y};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

inline float __uint_as_float(uint32_t x) {
    return std::bit_cast<float>(x);
}
inline uint32_t __float_as_uint(float x) {
    return std::bit_cast<uint32_t>(x);
}
inline int __float_as_int(float x) {
    return std::bit_cast<int>(x);
}
inline float __int_as_float(int x) {
    return std::bit_cast<float>(x);
}
// In the global namespace, too, these are for float and for double.
using std::copysign;
using std::exp;
using std::fabs;
using std::fma;
using std::log;
inline float rsqrtf(float x) {
    return 1.0f / std::sqrt(x);
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __expf(float x) {
    return std::exp(x);
}
inline float __logf(float x) {
    return std::log(x);
}
inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __clz(int x) {
    return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
template <class T>
T __ldg(const T* p) {
    return *p;
}
template <class T>
T __ldcg(const T* p) {
    return *p;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
// Of a number and none, a device takes the number.
template <class T>
T min(T a, T b) {
    return b < a || a != a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b || a != a ? b : a;
}

// Fibers give way only at barriers, so reading and writing apart is atomic.
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
    const T before = *at;
    *at = before + value;
    return before;
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> value) {
    const T before = *at;
    if (before < value) *at = value;
    return before;
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> value) {
    const T before = *at;
    if (value < before) *at = value;
    return before;
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> value) {
    const T before = *at;
    *at = value;
    return before;
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    const T before = *at;
    if (before == expected) *at = value;
    return before;
}

namespace noema::cuda {

/// For reports; the real device does without.
inline void name_launch(const char* kernel) {
    emulation::kernel_name = kernel;
}

struct bf16 {
    uint16_t bits;
};

inline float to_float(bf16 x) {
    return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
inline float to_float(float x) {
    return x;
}
inline bf16 to_bf16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    if (x != x) return {0x7FFF};
    return {static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16)};
}
inline uint32_t pack_bf16(float low, float high) {
    return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}
inline float fast_exp2(float x) {
    return std::exp2(x);
}
inline void sin_cos_pi(double x, double& sine, double& cosine) {
    const double rest = std::remainder(x, 2.0) * 3.14159265358979323846;
    sine = std::sin(rest);
    cosine = std::cos(rest);
}
inline void sin_cos_pi(float x, float& sine, float& cosine) {
    double s, c;
    sin_cos_pi(static_cast<double>(x), s, c);
    sine = static_cast<float>(s);
    cosine = static_cast<float>(c);
}

// --- shared memory ---------------------------------------------------------------------------------------------------

template <class T>
class Shared {
 public:
    static_assert(sizeof(T) % 2 == 0 && sizeof(T) <= 16);

    /// Stands for an element: reads and writes are looked at.
    class Element {
     public:
        Element(T* p, const Shared& of) : p_(p), low_(of.low_), high_(of.high_) {}
        operator T() const {
            emulation::touch_shared(p_, sizeof(T), low_, high_, emulation::Access::read);
            return *p_;
        }
        const Element& operator=(const T& value) const {
            emulation::touch_shared(p_, sizeof(T), low_, high_, emulation::Access::write);
            *p_ = value;
            return *this;
        }
        const Element& operator=(const Element& other) const { return *this = static_cast<T>(other); }
        Element(const Element&) = default;
        const Element& operator+=(const T& value) const {
            return *this = static_cast<T>(static_cast<T>(*this) + value);
        }
        const Element& operator*=(const T& value) const {
            return *this = static_cast<T>(static_cast<T>(*this) * value);
        }

     private:
        T* p_;
        const void *low_, *high_;
    };

    explicit Shared(T* p = nullptr) : p_(p), low_(p), high_(p) {}
    Shared(T* p, const void* low, const void* high) : p_(p), low_(low), high_(high) {}
    Element operator[](int i) const { return Element(p_ + i, *this); }
    Shared operator+(int i) const { return Shared(p_ + i, low_, high_); }
    template <class U>
    Shared<U> as() const {
        if (reinterpret_cast<uintptr_t>(p_) % alignof(U) % sizeof(U))
            emulation::report("shared memory at byte %u is misaligned for an access of %zu bytes", address(),
                              sizeof(U));
        return Shared<U>(reinterpret_cast<U*>(p_), low_, high_);
    }
    uint32_t address() const { return emulation::shared_address(p_); }

    T* pointer() const { return p_; }
    const void* low() const { return low_; }
    const void* high() const { return high_; }

 private:
    T* p_;
    const void *low_, *high_;
};

#define SHARED_ARRAY(T, name, length)                                                                   \
    static const char name##_tag = 0;                                                                   \
    T* const name##_ = reinterpret_cast<T*>(                                                            \
        ::noema::cuda::emulation::static_shared(&name##_tag, sizeof(T) * static_cast<size_t>(length))); \
    const ::noema::cuda::Shared<T> name(name##_, name##_, name##_ + (length))

template <class T>
Shared<T> dynamic_shared(int offset, int length) {
    unsigned char* p =
        emulation::dynamic_shared_memory(static_cast<size_t>(offset), sizeof(T) * static_cast<size_t>(length));
    return Shared<T>(reinterpret_cast<T*>(p), p, p + sizeof(T) * static_cast<size_t>(length));
}

template <class T>
T atomic_add(Shared<T> at, T value) {
    emulation::touch_shared(at.pointer(), sizeof(T), at.low(), at.high(), emulation::Access::atomic);
    return atomicAdd(at.pointer(), value);
}

// --- asynchronous copies ---------------------------------------------------------------------------------------------

template <class T, class U>
void copy_async_16(Shared<T> to, const U* from, int bytes = 16) {
    if (reinterpret_cast<uintptr_t>(to.pointer()) % 16 || (bytes && reinterpret_cast<uintptr_t>(from) % 16))
        emulation::report("an asynchronous copy of 16 bytes is misaligned");
    emulation::queue_copy(to.pointer(), from, bytes, to.low(), to.high());
}
inline void copy_async_commit() {
    emulation::close_copies();
}
template <int pending>
void copy_async_wait() {
    emulation::finish_copies(pending);
}

// --- tensor cores ----------------------------------------------------------------------------------------------------

namespace emulation {

template <class T>
void load_matrices(uint32_t (&r)[4], Shared<T> row, bool transposed, Site site) {
    if (reinterpret_cast<uintptr_t>(row.pointer()) % 16) report("a matrix row is not aligned to 16 bytes");
    touch_shared(row.pointer(), 16, row.low(), row.high(), Access::read);
    uint16_t mine[8];
    std::memcpy(mine, row.pointer(), 16);
    const Exchange& all = exchange(0xFFFFFFFFu, mine, sizeof mine, site);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        uint32_t pair = 0;
        for (int e = 0; e < 2; ++e) {
            const int at_row = transposed ? 2 * (lane % 4) + e : lane / 4,
                      column = transposed ? lane / 4 : 2 * (lane % 4) + e;
            uint16_t element;
            std::memcpy(&element, static_cast<const char*>(all.lane[8 * i + at_row]) + 2 * column, 2);
            pair |= static_cast<uint32_t>(element) << (16 * e);
        }
        r[i] = pair;
    }
}

inline float half_of(uint32_t pair, int which) {
    return std::bit_cast<float>(which ? pair & 0xFFFF0000u : pair << 16);
}

inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const Exchange& all = exchange(0xFFFFFFFFu, mine, sizeof mine, site);
    const auto word = [&](int lane, int i) {
        uint32_t x;
        std::memcpy(&x, static_cast<const char*>(all.lane[lane]) + 4 * i, 4);
        return x;
    };
    const int g = lane_index() / 4, t = lane_index() % 4;
    for (int i = 0; i < 4; ++i) {
        const int column = 2 * t + i % 2;
        float sum = d[i];
        for (int k = 0; k < 16; ++k) {
            const uint32_t pa = word(4 * g + k % 8 / 2, (i / 2) + 2 * (k / 8)),
                           pb = word(4 * column + k % 8 / 2, 4 + k / 8);
            sum += half_of(pa, k % 2) * half_of(pb, k % 2);
        }
        d[i] = sum;
    }
}

}  // namespace emulation

#define load_matrices_x4(r, row) ::noema::cuda::emulation::load_matrices(r, row, false, NOEMA_SITE)
#define load_matrices_x4_transposed(r, row) ::noema::cuda::emulation::load_matrices(r, row, true, NOEMA_SITE)
#define mma_16x8x16(d, a, b) ::noema::cuda::emulation::multiply(d, a, b, NOEMA_SITE)

// --- blocks that wait for each other ---------------------------------------------------------------------------------

#define arrive_at(counter, blocks, first) \
    ::noema::cuda::emulation::arrive_at_counter(counter, (first) ? 0x80000000u - ((blocks)-1) : 1u, NOEMA_SITE)
#define wait_at(counter, before) ::noema::cuda::emulation::wait_at_counter(counter, before, NOEMA_SITE)
#define grid_barrier(counter) \
    wait_at(counter, arrive_at(counter, gridDim.x* gridDim.y* gridDim.z, blockIdx.x + blockIdx.y + blockIdx.z == 0))

inline void prefetch(const void*) {}

}  // namespace noema::cuda
