// A table of K normal densities N(mean_k, sigma_k² I), transposed, so that a vector holds neighbouring components; and where gradients
// of such a table are added up.
#pragma once

#include "cpu/tasks.h"
#include "noema/arena.h"
#include "noema/tensor.h"

namespace noema::cpu {

/// What is kept of a scalar's components (probit_root-inl.h): log weight, weight, mean, scale and one over it.
constexpr int64_t kComponentArrays = 5;

struct ComponentTable {
    /// Rows reach to a multiple of this; components from K on have density 0 everywhere.
    static constexpr int64_t kPad = 32;

    const float* inv_sigma;      // [K] exp(-log_sigma)
    const float* half_inv_var;   // [K] exp(-2 log_sigma) / 2
    const float* neg_log_sigma;  // [K]
    const float* mean;           // [d,K], `stride` apart
    int64_t K, d, stride;
    float peak;  // the largest neg_log_sigma

    /// Rows of a chunk of components should not share a cache's sets: they start 16 lines apart, modulo 64.
    static int64_t stride_of(int64_t K) { return (K + kPad - 1 + 767) / 1024 * 1024 + 256; }
    static size_t bytes(int64_t K, int64_t d) { return workspace_bytes<float>((d + 3) * stride_of(K)); }
    int64_t padded() const { return (K + kPad - 1) / kPad * kPad; }
    const float* mean_of(int64_t i) const { return mean + i * stride; }
};

/// The table of mean [K,d] and log_sigma [K], in the workspace.
ComponentTable component_table(const View& mean, const View& log_sigma, const Stream& stream, Workspace& workspace);

/// Sums for a table's gradients: each of `count` tasks adds to [d + 1, stride] of its own, rows 0 to d - 1 for the means, row d for
/// log_sigma.
struct TableSums {
    float* parts;
    int64_t count, K, d, stride;

    static size_t bytes(int64_t count, int64_t K, int64_t d) {
        return workspace_bytes<float>(count * (d + 1) * ComponentTable::stride_of(K));
    }
    float* part(int64_t i) const { return parts + i * (d + 1) * stride; }
};
TableSums table_sums(int64_t count, int64_t K, int64_t d, Workspace& workspace);
/// d_mean [K,d] += the sums, in order; d_log_sigma [K] likewise; either may be absent.
void add_table_sums(const TableSums& sums, const View& d_mean, const View& d_log_sigma, const Stream& stream);

}  // namespace noema::cpu
