#include "cpu/top_list.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace noema::cpu {

namespace {

/// The K-th largest of the groups' maxima: K values of the piece reach it, so what lies below cannot enter the list.
float bound_of(const Peak& peak, int64_t K) {
    if (K == 1) return peak.max;
    if (K > peak.groups) return -HUGE_VALF;
    float best[kPeakGroups];
    std::copy(peak.group_max, peak.group_max + peak.groups, best);
    std::nth_element(best, best + K - 1, best + peak.groups, std::greater<float>());
    return best[K - 1];
}

void insert(TopList& list, Candidate c) {
    if (list.count == list.capacity && !likelier(c, list.items[list.count - 1])) return;
    if (list.count < list.capacity) ++list.count;
    int64_t at = list.count - 1;
    for (; at > 0 && likelier(c, list.items[at - 1]); --at) list.items[at] = list.items[at - 1];
    list.items[at] = c;
}

void merge(TopList& list, const Piece& piece, int64_t found, const TopScratch& scratch) {
    Candidate* end = std::copy(list.items, list.items + list.count, scratch.merged);
    for (int64_t i = 0; i < found; ++i) {
        const int32_t at = scratch.found[i];
        if (piece.first_id + at != piece.excluded) *end++ = {piece.x[at], piece.first_id + at};
    }
    const int64_t n = end - scratch.merged;
    list.count = std::min(n, list.capacity);
    // The least of the kept ones ends up last, where the next piece looks for its threshold.
    if (list.count > 0) std::nth_element(scratch.merged, scratch.merged + list.count - 1, end, likelier);
    std::copy(scratch.merged, scratch.merged + list.count, list.items);
}

}  // namespace

void add_piece(TopList& list, const Piece& piece, const TopScratch& scratch) {
    const bool full = list.count == list.capacity;
    const float least = full ? list.items[list.capacity - 1].value : -HUGE_VALF;
    if (full && !(piece.peak->max > least)) return;
    // A later id enters a full list only above its least.
    const float bound = list.capacity <= kSortedList && !full ? bound_of(*piece.peak, list.capacity) : least;
    const int64_t found = collect(piece.x, piece.n, bound, !full, scratch.found);
    if (list.capacity > kSortedList) return merge(list, piece, found, scratch);
    for (int64_t i = 0; i < found; ++i) {
        const int32_t at = scratch.found[i];
        if (piece.first_id + at != piece.excluded) insert(list, {piece.x[at], piece.first_id + at});
    }
}

void sort_list(TopList& list) {
    if (list.capacity > kSortedList) std::sort(list.items, list.items + list.count, likelier);
}

}  // namespace noema::cpu
