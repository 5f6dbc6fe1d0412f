// log sum_k w_k N_k(z) for rows of z over a table of components: codebook_decode (all w are 1) and mixture_rosenblatt without its scalars
// (w = exp(logits)).
#pragma once

#include "common/component_table.h"

namespace noema::cuda {

/// A sum of exp(x_k) over some components: relative to the largest x, and which component that is (the lowest of equals).
struct ExpSum {
    float max, sum;
    int32_t best;
};

/// What x_k is.
enum class Density { normal, weighted, weights };  // log N_k(z), logit_k + log N_k(z), logit_k

struct DensityRows {
    View z;       // [R,d]
    View logits;  // [R,K], or absent
    ComponentTable table;
};

/// Rows' sums over spans of components: totals(r) adds a row's up.
struct DensitySums {
    /// Components per block. Rows see the same cuts whatever their number.
    static constexpr int64_t kSpan = 4096;

    const ExpSum* sums;  // [spans,R]
    int64_t spans, R;

    static size_t bytes(int64_t R, int64_t K) { return workspace_bytes<ExpSum>(ceil_div(K, kSpan) * R); }
    __device__ __forceinline__ ExpSum total(int64_t r) const;
};
Status density_sums(Density what, const DensityRows& rows, const Columns& z, const Stream& stream, Workspace& workspace,
                    DensitySums& out);

/// Both sums over their union; equal maxima keep the lower component.
__device__ __forceinline__ ExpSum joined(const ExpSum& a, const ExpSum& b) {
    const bool other = b.max > a.max || (b.max == a.max && b.best < a.best);
    const float max = other ? b.max : a.max;
    const auto scaled = [&](const ExpSum& s) { return s.max == max ? s.sum : s.sum * expf(s.max - max); };
    return {max, scaled(a) + scaled(b), other ? b.best : a.best};
}

__device__ __forceinline__ ExpSum DensitySums::total(int64_t r) const {
    ExpSum all = sums[r];
    for (int64_t span = 1; span < spans; ++span) all = joined(all, sums[span * R + r]);
    return all;
}

}  // namespace noema::cuda
