#include "cpu/head_stats.h"

#include <algorithm>
#include <cmath>

namespace noema::cpu {

namespace {

constexpr int64_t kFound = kHeadChunk + 16;

void put(const View& v, int64_t r, double value) {
    if (v) v.as<float>()[r] = static_cast<float>(value);
}

/// Both sums, moved to a larger maximum: weighted is a sum of e (l - max), so it also loses sum * shift.
void move_to(RowState& s, float max) {
    if (s.sum > 0) {
        const double shift = double{max} - s.max, factor = std::exp(-shift);
        s.weighted = factor * (s.weighted - shift * s.sum);
        s.sum *= factor;
    }
    s.max = max;
}

void add_sums(RowState& s, const float* x, int64_t n, float max, bool entropy) {
    const ExpSums piece = entropy ? exp_sums(x, n, max) : ExpSums{exp_sum(x, n, max), 0};
    const double shift = double{s.max} - max, factor = shift > 0 ? std::exp(-shift) : 1;
    s.sum += factor * piece.sum;
    if (entropy) s.weighted += factor * (piece.weighted - shift * piece.sum);
}

}  // namespace

StatsNeeds needs_of(const RowStatsOutputs& out, int64_t tokens) {
    StatsNeeds needs;
    needs.sums = out.lse || out.entropy || out.margin;
    needs.entropy = static_cast<bool>(out.entropy);
    if (out.argmax) needs.best = 1;
    if (out.margin) needs.best = std::min<int64_t>(2, tokens);
    if (out.top_ids) needs.best = std::max(needs.best, out.top_ids.shape[1]);
    return needs;
}

bool RowState::broken() const {
    return nan || !std::isfinite(max);
}

double RowState::lse() const {
    return broken() ? NAN : max + std::log(sum);
}

size_t HeadStats::workspace(const Stream& stream) const {
    const size_t rows = workspace_bytes<RowState>(block_rows_) + workspace_bytes<TopList>(block_rows_);
    const size_t lists = workspace_bytes<Candidate>(block_rows_ * needs_.best);
    const size_t found = workspace_bytes<int32_t>(stream.threads * kFound);
    const size_t merged = long_list() ? workspace_bytes<Candidate>(stream.threads * (needs_.best + kHeadChunk)) : 0;
    return rows + lists + found + merged;
}

void HeadStats::open(Workspace& workspace, const Stream& stream) {
    states_ = workspace.take<RowState>(block_rows_);
    lists_ = workspace.take<TopList>(block_rows_);
    items_ = workspace.take<Candidate>(block_rows_ * needs_.best);
    found_ = workspace.take<int32_t>(stream.threads * kFound);
    if (long_list()) merged_ = workspace.take<Candidate>(stream.threads * (needs_.best + kHeadChunk));
}

void HeadStats::start(int64_t row) {
    states_[row] = {-HUGE_VALF, false, 0, 0};
    lists_[row] = {items_ + row * needs_.best, needs_.best, 0};
}

void HeadStats::observe(int64_t row, const float* x, int64_t first, int64_t n, int worker) {
    RowState& s = states_[row];
    Peak peak;
    find_peak(x, n, peak);
    s.nan |= peak.nan || peak.max == HUGE_VALF;
    if (s.nan || peak.max == -HUGE_VALF) return;
    if (peak.max > s.max) move_to(s, peak.max);
    if (needs_.sums) add_sums(s, x, n, peak.max, needs_.entropy);
    if (!needs_.best) return;
    const TopScratch scratch{found_ + worker * kFound,
                             long_list() ? merged_ + worker * (needs_.best + kHeadChunk) : nullptr};
    add_piece(lists_[row], {x, n, static_cast<int32_t>(first), excluded_, &peak}, scratch);
}

void HeadStats::finish(int64_t row) {
    if (!states_[row].broken()) sort_list(lists_[row]);
}

void HeadStats::write(const RowStatsOutputs& out, int64_t r, int64_t row) const {
    const RowState& s = states_[row];
    put(out.max_logit, r, s.broken() ? NAN : s.max);
    put(out.lse, r, s.lse());
    put(out.entropy, r, s.broken() ? NAN : std::log(s.sum) - s.weighted / s.sum);
    if (out.margin) {
        const TopList& list = lists_[row];
        const auto share = [&](int64_t k) { return std::exp(double{list.items[k].value} - s.max) / s.sum; };
        put(out.margin, r, s.broken() ? NAN : list.count > 1 ? share(0) - share(1) : share(0));
    }
    write_best(out, r, row);
}

void HeadStats::write_best(const RowStatsOutputs& out, int64_t r, int64_t row) const {
    const bool broken = states_[row].broken();
    const Candidate* items = lists_[row].items;
    if (out.argmax) out.argmax.as<int32_t>()[r] = broken ? first_token() : items[0].id;
    for (int64_t k = 0, id = 0; out.top_ids && k < out.top_ids.shape[1]; ++k, ++id) {
        if (id == excluded_) ++id;
        out.top_ids.at<int32_t>(r)[k] = broken ? static_cast<int32_t>(id) : items[k].id;
        out.top_logits.at<float>(r)[k] = broken ? NAN : items[k].value;
    }
}

}  // namespace noema::cpu
