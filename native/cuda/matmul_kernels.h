// What the kernels of matmul share: the law of its sums, and what happens to a finished one.
//
// The law. K is cut into chunks whose length follows from N and K alone (chunk_length). A chunk's sum starts at zero and runs
// through its factors in order (common/product.h says how), and the chunks' sums are added in order. Every kernel here keeps
// to that, so each may be chosen by the number of rows, and a row of C has the same bits in all of them:
//   rows    (matmul_rows.cu)    M <= 16: streams the weight, warps of a block take a chunk each
//   tiles   (matmul_tensor.cu, matmul_fma.cu)   the chunks of a tile one after the other, or each in a block of its own with the
//           sums of chunks added by finish_chunks
#pragma once

#include <cmath>

#include "common/launch.h"
#include "common/operand.h"
#include "noema/ops/matmul.h"

namespace noema::cuda {

/// Enough chunks that 8 columns x a chunk per warp fill the device (1536 warps are 11 or 12 for each of 132 multiprocessors), at
/// most 8, each of at least 256 factors: what a tile pays for a chunk's end is small then. A multiple of 64: every slab but the last
/// is whole.
inline int chunk_length(int64_t N, int64_t K) {
    constexpr int64_t kWarps = 1536, kMost = 8, kLeast = 256;
    const int64_t wanted = kWarps / ceil_div(N > 0 ? N : 1, 8), chunks = wanted < 1       ? 1
                                                                         : wanted > kMost ? kMost
                                                                                          : wanted;
    const int64_t length = ceil_div(ceil_div(K, chunks), 64) * 64;
    return static_cast<int>(length < kLeast ? kLeast : length);
}

/// C and what is done to a sum on its way there.
struct Epilogue {
    float* c = nullptr;
    const float *bias = nullptr, *gate = nullptr, *residual = nullptr;
    int64_t c_stride = 0, gate_stride = 0, residual_stride = 0;
    int M = 0, N = 0;
    Activation activation = Activation::none;
    bool accumulate = false;
    bool pairs = false;  // two neighbours may be read and written in one access of 8 bytes
};

/// Arguments of every kernel that multiplies.
struct ProductArguments {
    Operand a, b;
    Epilogue out;
    int K = 0, chunk = 0, chunks = 1;
    float* partial = nullptr;  // [chunks, M, N]: where each block leaves one chunk's sums; null: C is finished at once
};

/// The form of a product, as in Matmul.
struct Form {
    bool transpose_a, transpose_b;
};

// Each fails only if its launch does.
Status multiply_fma(const ProductArguments&, Form, bool large, const Stream&);
Status multiply_tensor_small(const ProductArguments&, Form, const Stream&);
/// Both operands bf16 with Operand::vector.
Status multiply_tensor_large(const ProductArguments&, Form, const Stream&);
constexpr int kSmallTile = 64, kLargeTile = 128;
/// C = A B^T of few rows; B has Operand::vector, and is bf16 for tensor cores.
constexpr int kMostRows = 16;
bool rows_fit(int64_t M, int64_t K, bool tensor);
Status multiply_rows(const ProductArguments&, bool tensor, const Stream&);

// --- the epilogue ----------------------------------------------------------------------------------------------------

// Products and sums apart: whether a compiler fuses them would differ from kernel to kernel.

__device__ __forceinline__ float activated(float x, Activation activation) {
    switch (activation) {
        case Activation::gelu_erf: return __fmul_rn(0.5f * x, 1.0f + erff(__fmul_rn(x, 0.70710678118654752440f)));
        case Activation::gelu_tanh: {
            const float cube = __fmul_rn(__fmul_rn(x, x), x);
            return __fmul_rn(0.5f * x, 1.0f + tanhf(__fmul_rn(0.79788456080286535588f, fmaf(0.044715f, cube, x))));
        }
        case Activation::none: break;
    }
    return x;
}

__device__ __forceinline__ float finished(const Epilogue& e, float y, int64_t m, int n) {
    if (e.bias) y = __fadd_rn(y, e.bias[n]);
    y = activated(y, e.activation);
    if (e.gate) {
        const float g = e.gate[m * e.gate_stride + n];
        y = __fmul_rn(__fdiv_rn(g, 1.0f + expf(-g)), y);
    }
    if (e.residual) y = __fadd_rn(y, e.residual[m * e.residual_stride + n]);
    if (e.accumulate) y = __fadd_rn(e.c[m * e.c_stride + n], y);
    return y;
}

/// The sums of columns n (even) and n + 1 of row m become elements of C, as far as these exist.
__device__ __forceinline__ void finish_pair(const Epilogue& e, float low, float high, int64_t m, int n) {
    if (m >= e.M || n >= e.N) return;
    float* c = e.c + m * e.c_stride + n;
    // A sum that began at zero is never -0, one chunk's alone can be.
    low = finished(e, __fadd_rn(low, 0.0f), m, n);
    if (n + 1 >= e.N) {
        c[0] = low;
        return;
    }
    high = finished(e, __fadd_rn(high, 0.0f), m, n + 1);
    if (e.pairs) {
        *reinterpret_cast<float2*>(c) = make_float2(low, high);
    } else {
        c[0] = low, c[1] = high;
    }
}

}  // namespace noema::cuda
