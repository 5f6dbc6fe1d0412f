// cast: a thread per four elements, one or two accesses of up to 16 bytes on either side.
#include "noema/ops/cast.h"

#include "common/floats.h"
#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

template <class To>
__device__ __forceinline__ To converted(float x);
template <>
__device__ __forceinline__ float converted<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ double converted<double>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 converted<bf16>(float x) {
    return to_bf16(x);
}
template <>
__device__ __forceinline__ f16 converted<f16>(float x) {
    return to_f16(x);
}

template <class To, class From>
__device__ __forceinline__ To convert(From x) {
    if constexpr (std::is_same_v<To, From>)
        return x;
    else if constexpr (!std::is_same_v<From, double>)
        return converted<To>(to_float(x));
    else if constexpr (std::is_same_v<To, float>)
        return static_cast<float>(x);
    else
        return converted<To>(rounded_to_odd(x));
}

template <class T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
    T e[4];
};

struct Matrices {
    const void* x;
    void* y;
    int64_t x_stride, y_stride;
    QuadGrid quads;
};

template <class From, class To>
__global__ void __launch_bounds__(QuadGrid::kThreads) cast_quads(Matrices p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t c) {
        const From* x = static_cast<const From*>(p.x) + row * p.x_stride + c;
        To* y = static_cast<To*>(p.y) + row * p.y_stride + c;
        if constexpr (decltype(whole)::value) {
            const Four<From> from = *reinterpret_cast<const Four<From>*>(x);
            Four<To> to;
#pragma unroll
            for (int i = 0; i < 4; ++i) to.e[i] = convert<To>(from.e[i]);
            *reinterpret_cast<Four<To>*>(y) = to;
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (c + i < p.quads.C) y[i] = convert<To>(x[i]);
        }
    });
}

template <class From>
Status launch_to(const Matrices& m, DType to, const Stream& stream) {
    switch (to) {
        case DType::f64: return launch("cast", stream, m.quads.grid(), cast_quads<From, double>, m);
        case DType::bf16: return launch("cast", stream, m.quads.grid(), cast_quads<From, bf16>, m);
        case DType::f16: return launch("cast", stream, m.quads.grid(), cast_quads<From, f16>, m);
        default: return launch("cast", stream, m.quads.grid(), cast_quads<From, float>, m);
    }
}

Status run(const Cast& p, const Stream& stream, Workspace) {
    const Matrices m{p.x.data, p.y.data, p.x.stride[0], p.y.stride[0], quad_grid(p.x, p.y)};
    switch (p.x.dtype) {
        case DType::f64: return launch_to<double>(m, p.y.dtype, stream);
        case DType::bf16: return launch_to<bf16>(m, p.y.dtype, stream);
        case DType::f16: return launch_to<f16>(m, p.y.dtype, stream);
        default: return launch_to<float>(m, p.y.dtype, stream);
    }
}

}  // namespace

Op<Cast> cast_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
