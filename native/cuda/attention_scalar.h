// Small products on the f32 units. A warp owns 8 rows; a thread 4 of them, and of the columns those that are its lane
// apart by 16. Reading 16 bytes at a time, 16 steps of reading feed 64 multiply-adds, and rows of width + 4 keep the
// lanes in different banks.
#pragma once

#include "attention.h"

namespace noema::cuda {

constexpr int kWarpRows = 8, kThreadRows = 4;

__device__ __forceinline__ int lane_rows() {
    return static_cast<int>(threadIdx.x) % 32 / 16 * kThreadRows;
}
__device__ __forceinline__ int lane_column() {
    return static_cast<int>(threadIdx.x) % 16;
}

/// c[r][j] = sum over [0, depth) of left row r and right row lane_column() + 16 j. `left` starts at the warp's rows;
/// depth is a multiple of 4.
template <int kColumns, int kStride>
__device__ __forceinline__ void products(float (&c)[kThreadRows][kColumns], Shared<float> left, Shared<float> right,
                                         int depth) {
    const Shared<float4> a = (left + lane_rows() * kStride).template as<float4>();
    const Shared<float4> b = (right + lane_column() * kStride).template as<float4>();
    for (int r = 0; r < kThreadRows; ++r)
        for (int j = 0; j < kColumns; ++j) c[r][j] = 0;
#pragma unroll 2
    for (int k = 0; k < depth / 4; ++k) {
        float4 x[kThreadRows];
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) x[r] = a[r * (kStride / 4) + k];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
            const float4 y = b[16 * j * (kStride / 4) + k];
#pragma unroll
            for (int r = 0; r < kThreadRows; ++r) {
                c[r][j] = fmaf(x[r].x, y.x, c[r][j]);
                c[r][j] = fmaf(x[r].y, y.y, c[r][j]);
                c[r][j] = fmaf(x[r].z, y.z, c[r][j]);
                c[r][j] = fmaf(x[r].w, y.w, c[r][j]);
            }
        }
    }
}

__device__ __forceinline__ void add_scaled(float4& c, float a, const float4& b) {
    c.x = fmaf(a, b.x, c.x);
    c.y = fmaf(a, b.y, c.y);
    c.z = fmaf(a, b.z, c.z);
    c.w = fmaf(a, b.w, c.w);
}

/// c[r][q] += sum over kDepth of weights[row r][k] rows[k][4 values from 4 lane_column() + 64 q].
template <int kDepth, int kQuads, int kStride>
__device__ __forceinline__ void accumulate_rows(float4 (&c)[kThreadRows][kQuads], Shared<float> weights,
                                                Shared<float> rows) {
    const Shared<float4> a = (weights + lane_rows() * (kDepth + 4)).template as<float4>();
    const Shared<float4> b = (rows + 4 * lane_column()).template as<float4>();
#pragma unroll 2
    for (int k = 0; k < kDepth; k += 4) {
        float4 x[kThreadRows];
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) x[r] = a[r * (kDepth / 4 + 1) + k / 4];
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
            const int at = k * (kStride / 4) + 16 * q;
            const float4 y0 = b[at], y1 = b[at + kStride / 4], y2 = b[at + 2 * (kStride / 4)],
                         y3 = b[at + 3 * (kStride / 4)];
#pragma unroll
            for (int r = 0; r < kThreadRows; ++r) {
                add_scaled(c[r][q], x[r].x, y0);
                add_scaled(c[r][q], x[r].y, y1);
                add_scaled(c[r][q], x[r].z, y2);
                add_scaled(c[r][q], x[r].w, y3);
            }
        }
    }
}

/// Tile rows [0, kRows) from row(i), or zeros where row(i) is null; padded to kWidth with zeros.
template <int kRows, int kWidth, int kThreads, class Row>
__device__ __forceinline__ void load_rows(Shared<float> to, int D, bool quads, const Row& row) {
    for (int i = static_cast<int>(threadIdx.x); i < kRows * (kWidth / 4); i += kThreads) {
        const int r = i / (kWidth / 4), column = i % (kWidth / 4) * 4;
        const float* from = row(r);
        (to + (r * (kWidth + 4) + column)).template as<float4>()[0] =
            load_quad(from, column, D, quads, from != nullptr);
    }
}

}  // namespace noema::cuda
