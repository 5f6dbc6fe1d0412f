// A table of K normal densities N(mean_k, sigma_k² I), transposed, so that neighbouring threads read neighbouring components; and where
// gradients of such a table are added up.
#pragma once

#include "common/launch.h"
#include "noema/arena.h"
#include "noema/tensor.h"

namespace noema::cuda {

/// A matrix [N,d], transposed: [d, `stride`], zeros from column N on.
struct Columns {
    static constexpr int64_t kPad = 32;

    const float* data;
    int64_t N, d, stride;

    static int64_t stride_of(int64_t N) { return ceil_div(N, kPad) * kPad; }
    static size_t bytes(int64_t N, int64_t d) { return workspace_bytes<float>(d * stride_of(N)); }
    __device__ __forceinline__ float at(int64_t i, int64_t n) const { return data[i * stride + n]; }
    /// Four neighbours; n is a multiple of 4.
    __device__ __forceinline__ float4 quad(int64_t i, int64_t n) const {
        return *reinterpret_cast<const float4*>(data + i * stride + n);
    }
};
Status columns_of(const View& matrix, const Stream& stream, Workspace& workspace, Columns& out);

/// Components from K on have density 0 everywhere.
struct ComponentTable {
    const float* inv_sigma;      // [stride] exp(-log_sigma)
    const float* half_inv_var;   // [stride] exp(-2 log_sigma) / 2
    const float* neg_log_sigma;  // [stride]
    Columns mean;

    static size_t bytes(int64_t K, int64_t d) {
        return workspace_bytes<float>(3 * Columns::stride_of(K)) + Columns::bytes(K, d);
    }
    int64_t K() const { return mean.N; }
    /// log N_k at its mean: -d (log sigma_k + log(2 pi) / 2).
    __device__ __forceinline__ float log_peak(int64_t k) const {
        return static_cast<float>(mean.d) * (neg_log_sigma[k] - 0.91893853320467274f);
    }
};
Status component_table(const View& mean, const View& log_sigma, const Stream& stream, Workspace& workspace,
                       ComponentTable& out);

/// Sums for a table's gradients: each of `count` chunks has [d + 1, stride] of its own, rows 0 to d - 1 for the means, row d for
/// log_sigma.
struct TableSums {
    float* parts;
    int64_t count, K, d, stride;

    static size_t bytes(int64_t count, int64_t K, int64_t d) {
        return workspace_bytes<float>(count * (d + 1) * Columns::stride_of(K));
    }
    __device__ __forceinline__ float* at(int64_t chunk, int64_t i) const {
        return parts + (chunk * (d + 1) + i) * stride;
    }
};
TableSums table_sums(int64_t count, int64_t K, int64_t d, Workspace& workspace);
/// d_mean [K,d] += the sums, in order; d_log_sigma [K] likewise; either may be absent.
Status add_table_sums(const TableSums& sums, const View& d_mean, const View& d_log_sigma, const Stream& stream);

}  // namespace noema::cuda
