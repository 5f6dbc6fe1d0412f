// What the reference's head ops share: a row of logits, and the numbers of row_stats from it.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "reference.h"

namespace noema::reference {

/// hidden[row] W^T + bias; the excluded id has -infinity.
template <class A>
std::vector<A> row_logits(const View& hidden, int64_t row, const Weight& weight, const View& bias, int64_t excluded_id,
                          Precision precision) {
    std::vector<A> logits(static_cast<size_t>(weight.view.shape[0]));
    for (int64_t v = 0; v < weight.view.shape[0]; ++v) {
        A sum = 0;
        for (int64_t c = 0; c < hidden.shape[1]; ++c)
            sum += operand(get<A>(hidden, row, c), precision) * operand(get<A>(weight.view, v, c), precision);
        logits[v] = bias ? sum + get<A>(bias, v) : sum;
    }
    if (excluded_id >= 0) logits[excluded_id] = -std::numeric_limits<A>::infinity();
    return logits;
}

template <class A>
A log_sum_exp(const std::vector<A>& logits) {
    const A most = *std::max_element(logits.begin(), logits.end());
    A sum = 0;
    for (const A logit : logits) sum += std::exp(logit - most);
    return most + std::log(sum);
}

/// A row with a NaN, or without a finite largest logit, has no distribution.
template <class A>
bool is_broken(const std::vector<A>& logits) {
    bool nan = false;
    A most = -std::numeric_limits<A>::infinity();
    for (const A logit : logits) {
        nan |= std::isnan(logit);
        most = std::max(most, logit);
    }
    return nan || !std::isfinite(most);
}

/// Every allowed id, likeliest first, ties to the lower id; for a broken row by id.
template <class A>
std::vector<int64_t> ranking(const std::vector<A>& logits, int64_t excluded_id) {
    std::vector<int64_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    if (excluded_id >= 0) order.erase(order.begin() + excluded_id);
    if (!is_broken(logits))
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
    return order;
}

template <class A>
A entropy_of(const std::vector<A>& logits, A lse) {
    A sum = 0;
    for (const A logit : logits)
        if (std::isfinite(logit)) sum -= std::exp(logit - lse) * (logit - lse);
    return sum;
}

template <class A>
void write_row_stats(const RowStatsOutputs& out, int64_t r, const std::vector<A>& logits,
                     const std::vector<int64_t>& order) {
    const bool broken = is_broken(logits);
    const A nan = std::numeric_limits<A>::quiet_NaN(), lse = broken ? nan : log_sum_exp(logits);
    const A first = broken ? nan : logits[order[0]];
    const A second = order.size() > 1 ? std::exp(logits[order[1]] - lse) : A{0};
    if (out.argmax) set<A>(out.argmax, static_cast<A>(order[0]), r);
    if (out.max_logit) set<A>(out.max_logit, first, r);
    if (out.lse) set<A>(out.lse, lse, r);
    if (out.entropy) set<A>(out.entropy, broken ? nan : entropy_of(logits, lse), r);
    if (out.margin) set<A>(out.margin, std::exp(first - lse) - second, r);
    for (int64_t k = 0; out.top_ids && k < out.top_ids.shape[1]; ++k) {
        set<A>(out.top_ids, static_cast<A>(order[k]), r, k);
        set<A>(out.top_logits, broken ? nan : logits[order[k]], r, k);
    }
}

}  // namespace noema::reference
