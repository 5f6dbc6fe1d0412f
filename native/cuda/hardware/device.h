// What kernels are written against, on the real device: CUDA's own names, and a few wrappers where CUDA wants assembly
// or where the emulation (emulation/device.h offers the same names) wants to look. Kernels touch shared memory through
// Shared<T> alone and never write assembly themselves.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace noema::cuda {

/// The emulation's reports want the kernel's name.
inline void name_launch(const char*) {}

/// Storage of a bf16 value. Arithmetic is done in f32.
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(bf16 x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
__device__ __forceinline__ float to_float(float x) {
    return x;
}
/// Nearest even.
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
/// Two bf16 values in one register, `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

/// 2^x and 1/x by the special function unit, to 2 ulp; 2^-inf = 0.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Sine and cosine of pi x. (CUDA's sincos keeps a slow path for huge angles, with a stack frame; turns need none.)
__device__ __forceinline__ void sin_cos_pi(double x, double& sine, double& cosine) {
    sincospi(x, &sine, &cosine);
}
__device__ __forceinline__ void sin_cos_pi(float x, float& sine, float& cosine) {
    sincospif(x, &sine, &cosine);
}

// --- shared memory ---------------------------------------------------------------------------------------------------

/// A pointer into the block's shared memory. T has 2, 4, 8 or 16 bytes.
template <class T>
class Shared {
 public:
    __device__ __forceinline__ explicit Shared(T* p = nullptr) : p_(p) {}
    __device__ __forceinline__ T& operator[](int i) const { return p_[i]; }
    __device__ __forceinline__ Shared operator+(int i) const { return Shared(p_ + i); }
    /// The same bytes as elements of another type; the address must suit it.
    template <class U>
    __device__ __forceinline__ Shared<U> as() const {
        return Shared<U>(reinterpret_cast<U*>(p_));
    }
    /// The address in the window of shared memory, as assembly takes it.
    __device__ __forceinline__ uint32_t address() const { return static_cast<uint32_t>(__cvta_generic_to_shared(p_)); }

 private:
    T* p_;
};

/// An array whose length is known when compiling, local to the kernel: SHARED_ARRAY(float, sums, 32);
#define SHARED_ARRAY(T, name, length)         \
    __shared__ alignas(16) T name##_[length]; \
    const ::noema::cuda::Shared<T> name(name##_)

/// The block's dynamic shared memory from byte `offset` on: `length` elements (the emulation checks them).
template <class T>
__device__ __forceinline__ Shared<T> dynamic_shared(int offset, int length) {
    extern __shared__ __align__(128) unsigned char noema_dynamic_shared[];
    (void)length;
    return Shared<T>(reinterpret_cast<T*>(noema_dynamic_shared + offset));
}

template <class T>
__device__ __forceinline__ T atomic_add(Shared<T> at, T value) {
    return atomicAdd(&at[0], value);
}

// --- asynchronous copies ---------------------------------------------------------------------------------------------

/// Copies 16 bytes from device to shared memory behind the thread's back; the last 16 - `bytes` of them become zero (with 0
/// nothing is read). Both addresses are multiples of 16.
template <class T, class U>
__device__ __forceinline__ void copy_async_16(Shared<T> to, const U* from, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.address()),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}
/// Closes a group of copies.
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `pending` of this thread's groups are under way. A barrier makes them visible to the others.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// --- tensor cores ----------------------------------------------------------------------------------------------------

/// Four 8x8 matrices of 16-bit elements: lane 8 i + r names row r (16 bytes) of matrix i; register i of lane l receives elements
/// 2 (l % 4) and the next of row l / 4 of matrix i.
template <class T>
__device__ __forceinline__ void load_matrices_x4(uint32_t (&r)[4], Shared<T> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row.address())
                 : "memory");
}
/// The same, each matrix transposed on the way.
template <class T>
__device__ __forceinline__ void load_matrices_x4_transposed(uint32_t (&r)[4], Shared<T> row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row.address())
                 : "memory");
}

/// d[16,8] += a[16,16] b[16,8], bf16 products, f32 sums. With g = lane / 4, t = lane % 4 a thread holds
///   a: rows g (registers 0, 2) and g + 8 (1, 3), columns 2t, 2t+1 (0, 1) and those + 8 (2, 3)
///   b: rows 2t, 2t+1 (register 0) and those + 8 (1), column g
///   d: row g columns 2t, 2t+1 (0, 1) and row g + 8 (2, 3)
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- blocks that wait for each other ---------------------------------------------------------------------------------

/// Some blocks of a cooperative launch (launch.h) meet at `counter`, a zeroed word of device memory: each arrives, then waits with what
/// arrive_at() gave it. What they wrote before, all of them see after. Between the two a block may do what needs neither the others nor
/// shared memory. One block of them, and only one, is `first`.
__device__ __forceinline__ unsigned int arrive_at(unsigned int* counter, unsigned int blocks, bool first) {
    unsigned int before = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        // The top bit flips once all have come: the first adds what is missing to it, the others one each.
        before = atomicAdd(counter, first ? 0x80000000u - (blocks - 1) : 1u);
    }
    return before;
}
__device__ __forceinline__ void wait_at(unsigned int* counter, unsigned int before) {
    if (threadIdx.x == 0) {
        while (((*reinterpret_cast<volatile unsigned int*>(counter) ^ before) & 0x80000000u) == 0) {
        }
        __threadfence();
    }
    __syncthreads();
}
/// All blocks of the launch.
__device__ __forceinline__ void grid_barrier(unsigned int* counter) {
    const unsigned int blocks = gridDim.x * gridDim.y * gridDim.z;
    wait_at(counter, arrive_at(counter, blocks, blockIdx.x + blockIdx.y + blockIdx.z == 0));
}

/// Asks for the 128 bytes around `p` to be brought to the second level cache.
__device__ __forceinline__ void prefetch(const void* p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}

}  // namespace noema::cuda
