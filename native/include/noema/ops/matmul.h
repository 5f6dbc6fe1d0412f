// matmul: C = epilogue(op(A) op(B)), sums in f32.
//
//   product   P[m,n] = sum_k op(A)[m,k] * op(B)[k,n]
//   epilogue  y = activation(P + bias[n]);  y = silu(gate[m,n]) * y  when gate is given;  y += residual[m,n]
//   result    C = y, or C += y with `accumulate` (weight gradients)
//
// op(A) is A [M,K], or the transpose of A [K,M] with transpose_a. op(B) is B [K,N], or the transpose of B [N,K] with
// transpose_b (a weight [out, in] is used with transpose_b = true). Row m of C never depends on how many other rows
// there are, nor on the thread count: the same sums in the same order.
#pragma once

#include "noema/tensor.h"

namespace noema {

enum class Activation : uint8_t { none, gelu_erf, gelu_tanh };

struct Matmul {
    View a;         // [M,K] ([K,M] with transpose_a), f32 or bf16, rows contiguous
    View b;         // [K,N] ([N,K] with transpose_b), f32 or bf16, rows contiguous
    View c;         // [M,N] f32, rows contiguous; may not overlap a, b
    View bias;      // [N] f32, optional
    View gate;      // [M,N] f32, optional
    View residual;  // [M,N] f32, optional; may be c itself
    const void* packed_b =
        nullptr;  // b arranged by matmul_pack for `precision`, `transposed` without transpose_b; optional
    Precision precision = Precision::f32;
    Activation activation = Activation::none;
    bool transpose_a = false;
    bool transpose_b = false;
    bool accumulate = false;
};

/// Arranges a weight [N,K] for this backend's matmul and head ops: for products x Wᵀ, or, `transposed`, for products y W.
/// Backend::packed_bytes says how much room `packed` needs; a backend with no arrangement of its own answers 0 and is not called.
struct MatmulPack {
    View weight;             // [N,K] f32 or bf16
    void* packed = nullptr;  // Backend::packed_bytes(weight, precision, transposed) bytes, 64-byte aligned
    Precision precision = Precision::f32;
    bool transposed = false;
};

}  // namespace noema
