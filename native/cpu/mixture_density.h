// log sum_k w_k N_k(z) for rows of z over a table of components: codebook_decode (all w are 1) and mixture_rosenblatt without its scalars
// (w = exp(logits)). Rows are taken in blocks, components in chunks that stay in the first cache while a block passes over them; nothing of
// size rows x components is stored.
#pragma once

#include "cpu/component_table.h"

namespace noema::cpu {

/// A sum of exp(x_k) over some components: relative to the largest x, and which component that is (the lowest of equals).
struct ExpSum {
    float max;
    int32_t best;
    double sum;

    /// The sums of two runs of components, this one's being the lower.
    void add(const ExpSum& other);
};

/// Components per task. Rows see the same cuts whatever their number.
constexpr int64_t kDensitySpan = 8192;

struct MixtureDensity {
    View z;       // [R,d]
    View logits;  // [R,K], or absent
    ComponentTable table;
    ExpSum* joint;    // [spans, R] of logit_k + log N_k(z)
    ExpSum* weights;  // [spans, R] of logit_k; null without logits

    /// Rows that logs() takes at once.
    static constexpr int64_t kLogs = 256;

    /// Row r's sum over all components, of `joint` or `weights`.
    ExpSum total(const ExpSum* sums, int64_t r) const;
    /// The logarithms of n of them.
    void logs(const ExpSum* sums, int64_t first, int64_t n, float* to) const;

    static int64_t spans(int64_t K) { return ceil_div(K, kDensitySpan); }
    static size_t bytes(int64_t R, int64_t K, bool logits) {
        return (logits ? 2 : 1) * workspace_bytes<ExpSum>(spans(K) * R);
    }
};

/// Takes the sums' room from the workspace and fills them.
MixtureDensity mixture_density(const View& z, const View& logits, const ComponentTable& table, const Stream& stream,
                               Workspace& workspace);

}  // namespace noema::cpu
