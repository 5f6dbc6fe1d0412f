// NVIDIA's cuBLASLt, where the machine has it: opened at run time, never linked, never needed. NOEMA_CUBLASLT=off does without,
// NOEMA_CUBLASLT=<path> names the file.
//
// A row of C may not depend on how many rows there are, so the algorithm is chosen once for each form, N and K, asked about a
// product of kChosenRows rows, and then serves every number of rows; algorithms that cut K, or refuse some number of rows, are turned down.
#pragma once

#include "common/queue.h"
#include "noema/status.h"

namespace noema::cuda {

/// C[M,N] = A B + beta * add in f32, all matrices by rows. a and b are bf16; everything starts at multiples of 16 bytes, rows too.
struct LibraryProduct {
    bool transpose_a = false, transpose_b = false;
    int64_t M = 0, N = 0, K = 0;
    const void *a = nullptr, *b = nullptr;
    int64_t a_stride = 0, b_stride = 0;
    float* c = nullptr;
    int64_t c_stride = 0;
    const float* add = nullptr;  // may be c
    int64_t add_stride = 0;
};

/// Null where there is no library, or it is not wanted.
Cublaslt* open_cublaslt();
void close_cublaslt(Cublaslt*);
/// Whether the library has an algorithm for products of this form, N and K. The answer is remembered.
bool cublaslt_takes(Cublaslt*, const LibraryProduct&);
Status cublaslt_multiply(Cublaslt*, const LibraryProduct&, cudaStream_t);

}  // namespace noema::cuda
