// Operands of mma_16x8x16 from bf16 tiles in shared memory, whose rows lie width + 8 apart: eight rows of an ldmatrix
// are in eight different groups of banks.
#pragma once

#include "attention.h"

namespace noema::cuda {

/// Where lane `l` points to for 16 x 16 values as a left operand (rows summed over columns), or, transposed, as two
/// right ones that are summed over their rows.
__device__ __forceinline__ int left_lane(int lane, int stride) {
    return lane % 16 * stride + lane / 16 * 8;
}
/// For 16 rows x 16 columns as two right operands of 8 rows each, summed over columns.
__device__ __forceinline__ int right_lane(int lane, int stride) {
    return (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
}

/// c[16, 8 n] += a b over 16 columns of the two 8-row right operands in r.
__device__ __forceinline__ void multiply_pair(float (&c0)[4], float (&c1)[4], const uint32_t (&a)[4],
                                              const uint32_t (&r)[4]) {
    const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
    mma_16x8x16(c0, a, b0);
    mma_16x8x16(c1, a, b1);
}

/// Two neighbouring results [16, 8] as the left operand of the next product.
__device__ __forceinline__ void as_left(uint32_t (&a)[4], const float (&c0)[4], const float (&c1)[4]) {
    a[0] = pack_bf16(c0[0], c0[1]);
    a[1] = pack_bf16(c0[2], c0[3]);
    a[2] = pack_bf16(c1[0], c1[1]);
    a[3] = pack_bf16(c1[2], c1[3]);
}

/// acc[16, kColumns] += weights[16, kKeys] rows[kKeys, kColumns].
template <int kKeys, int kColumns>
__device__ __forceinline__ void accumulate(float (&acc)[kColumns / 8][4], const float (&weights)[kKeys / 8][4],
                                           Shared<bf16> rows, int stride) {
    const Shared<bf16> mine = rows + left_lane(static_cast<int>(threadIdx.x) % 32, stride);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
        uint32_t a[4];
        as_left(a, weights[2 * k], weights[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < kColumns / 16; ++n) {
            uint32_t r[4];
            load_matrices_x4_transposed(r, mine + (16 * k * stride + 16 * n));
            multiply_pair(acc[2 * n], acc[2 * n + 1], a, r);
        }
    }
}

/// Copies a run of `count` values (a multiple of 8) in the background.
template <int kThreads>
__device__ __forceinline__ void copy_run(Shared<bf16> to, const bf16* from, int count) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) * 8; i < count; i += kThreads * 8) copy_async_16(to + i, from + i);
}

}  // namespace noema::cuda
