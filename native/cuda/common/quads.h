// Four consecutive f32 of a row at a time: one access of 16 bytes where addresses allow it, else four of 4. Which thread
// owns which elements is the same either way, and so are the bits of every result. (Wide states: four f64, two accesses.)
#pragma once

#include <type_traits>

#include "common/launch.h"
#include "device.h"
#include "noema/tensor.h"

namespace noema::cuda {

template <class T>
struct QuadOf {
    T e[4];
};
using Quad = QuadOf<float>;

/// f of each element.
template <class F, class... T>
__device__ __forceinline__ auto map(F f, const QuadOf<T>&... q) {
    QuadOf<decltype(f(q.e[0]...))> out;
#pragma unroll
    for (int i = 0; i < 4; ++i) out.e[i] = f(q.e[i]...);
    return out;
}

__device__ __forceinline__ Quad filled(float x) {
    return {{x, x, x, x}};
}

/// Elements [c, c + 4) of a row of C. kWhole: all four exist, and the address is a multiple of the quad's bytes.
/// Elements from C on read as 0 and are not written.
template <bool kWhole>
__device__ __forceinline__ Quad load_quad(const float* row, int64_t c, int64_t C) {
    if constexpr (kWhole) {
        const float4 v = *reinterpret_cast<const float4*>(row + c);
        return {{v.x, v.y, v.z, v.w}};
    } else {
        Quad q;
#pragma unroll
        for (int i = 0; i < 4; ++i) q.e[i] = c + i < C ? row[c + i] : 0.0f;
        return q;
    }
}
template <bool kWhole>
__device__ __forceinline__ Quad load_quad(const bf16* row, int64_t c, int64_t C) {
    if constexpr (kWhole) {
        const uint2 v = *reinterpret_cast<const uint2*>(row + c);
        return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xFFFF0000u), __uint_as_float(v.y << 16),
                 __uint_as_float(v.y & 0xFFFF0000u)}};
    } else {
        Quad q;
#pragma unroll
        for (int i = 0; i < 4; ++i) q.e[i] = c + i < C ? to_float(row[c + i]) : 0.0f;
        return q;
    }
}
struct alignas(16) Pair {
    double e[2];
};
template <bool kWhole>
__device__ __forceinline__ QuadOf<double> load_quad(const double* row, int64_t c, int64_t C) {
    if constexpr (kWhole) {
        const Pair *at = reinterpret_cast<const Pair*>(row + c), low = at[0], high = at[1];
        return {{low.e[0], low.e[1], high.e[0], high.e[1]}};
    } else {
        QuadOf<double> q;
#pragma unroll
        for (int i = 0; i < 4; ++i) q.e[i] = c + i < C ? row[c + i] : 0.0;
        return q;
    }
}
template <bool kWhole>
__device__ __forceinline__ void store_quad(double* row, int64_t c, int64_t C, const QuadOf<double>& q) {
    if constexpr (kWhole) {
        Pair* at = reinterpret_cast<Pair*>(row + c);
        at[0] = {{q.e[0], q.e[1]}};
        at[1] = {{q.e[2], q.e[3]}};
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (c + i < C) row[c + i] = q.e[i];
    }
}
template <bool kWhole>
__device__ __forceinline__ void store_quad(float* row, int64_t c, int64_t C, const Quad& q) {
    if constexpr (kWhole) {
        *reinterpret_cast<float4*>(row + c) = make_float4(q.e[0], q.e[1], q.e[2], q.e[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (c + i < C) row[c + i] = q.e[i];
    }
}

/// The sum of those elements of the quad at c that lie in a row of C.
template <bool kWhole, class T>
__device__ __forceinline__ T sum_inside(const QuadOf<T>& q, int64_t c, int64_t C) {
    T e[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) e[i] = kWhole || c + i < C ? q.e[i] : T{0};
    return (e[0] + e[1]) + (e[2] + e[3]);
}

inline bool start_aligned(const View& v) {
    return reinterpret_cast<uintptr_t>(v.data) % (4 * dtype_size(v.dtype)) == 0;
}
/// Whether every row of these (absent ones do not count) starts at a multiple of a quad's bytes.
template <class... V>
bool rows_aligned(const V&... views) {
    const auto aligned = [](const View& v) {
        bool yes = start_aligned(v);
        for (int axis = 0; axis + 1 < v.rank; ++axis) yes &= v.stride[axis] % 4 == 0;
        return yes;
    };
    return (aligned(views) && ...);
}

// --- element by element ----------------------------------------------------------------------------------------------

/// A thread per quad of a matrix. One quad each: 2048 resident threads have 32 KB per operand under way on a multiprocessor, about
/// what 4 TB/s want.
struct QuadGrid {
    static constexpr int kThreads = 256;

    int64_t count;    // quads
    int64_t per_row;  // quads
    int64_t C;
    bool aligned;

    Grid grid() const {
        return {.blocks = dim3(static_cast<unsigned>(ceil_div(count, kThreads))), .threads = kThreads};
    }
};

/// For matrices [R,C]; without gaps between rows they are one long row.
template <class... V>
QuadGrid quad_grid(const View& shape, const V&... others) {
    const bool flat = shape.contiguous() && (others.contiguous() && ...);
    const int64_t R = flat ? 1 : shape.shape[0], C = flat ? shape.size() : shape.shape[1];
    const bool aligned = flat ? start_aligned(shape) && (start_aligned(others) && ...) : rows_aligned(shape, others...);
    return {R * ceil_div(C, 4), ceil_div(C, 4), C, aligned};
}

/// Calls f(whole, row, c) for this thread's quad; `whole` is what load_quad and store_quad take as kWhole (whole.value).
template <class F>
__device__ __forceinline__ void at_quad(const QuadGrid& g, F f) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * QuadGrid::kThreads + threadIdx.x;
    if (item >= g.count) return;
    const int64_t row = static_cast<int64_t>(static_cast<uint64_t>(item) / static_cast<uint64_t>(g.per_row));
    const int64_t c = 4 * (item - row * g.per_row);
    if (g.aligned && c + 4 <= g.C)
        f(std::true_type{}, row, c);
    else
        f(std::false_type{}, row, c);
}

}  // namespace noema::cuda
