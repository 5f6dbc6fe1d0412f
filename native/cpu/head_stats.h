// What is gathered of every row while its logits pass by, and the outputs of row_stats made from it.
#pragma once

#include "cpu/head_product.h"
#include "cpu/top_list.h"

namespace noema::cpu {

struct StatsNeeds {
    bool sums = false;
    bool entropy = false;  // with sums
    int64_t best = 0;      // length of the list of likeliest tokens
};

/// Needs of the outputs that are present, for a vocabulary of `tokens` allowed tokens.
StatsNeeds needs_of(const RowStatsOutputs& out, int64_t tokens);

/// Relative to `max`, which only grows: sum of exp(logit - max), and of that times (logit - max). A broken row has a NaN
/// or no finite largest logit, and so no distribution.
struct RowState {
    float max;
    bool nan;
    double sum;
    double weighted;

    bool broken() const;
    double lse() const;
};

class HeadStats {
 public:
    HeadStats(StatsNeeds needs, int64_t block_rows, int64_t excluded_id)
        : needs_(needs), block_rows_(block_rows), excluded_(static_cast<int32_t>(excluded_id)) {}

    size_t workspace(const Stream& stream) const;
    void open(Workspace& workspace, const Stream& stream);

    void start(int64_t row);
    /// n <= kHeadChunk logits of the ids first...
    void observe(int64_t row, const float* x, int64_t first, int64_t n, int worker);
    /// After the last chunk.
    void finish(int64_t row);

    const RowState& state(int64_t row) const { return states_[row]; }
    const TopList& best(int64_t row) const { return lists_[row]; }
    /// The token that a row without a distribution answers with: the first allowed one.
    int32_t first_token() const { return excluded_ == 0 ? 1 : 0; }

    /// Row `row` of the block is row r of the outputs.
    void write(const RowStatsOutputs& out, int64_t r, int64_t row) const;

 private:
    void write_best(const RowStatsOutputs& out, int64_t r, int64_t row) const;
    bool long_list() const { return needs_.best > kSortedList; }

    StatsNeeds needs_;
    int64_t block_rows_;
    int32_t excluded_;
    RowState* states_ = nullptr;
    TopList* lists_ = nullptr;
    Candidate* items_ = nullptr;
    int32_t* found_ = nullptr;
    Candidate* merged_ = nullptr;
};

}  // namespace noema::cpu
