// The K largest values seen of one row, ties to the lower id. Values come in pieces, with rising ids, and hold no NaN.
#pragma once

#include <cstddef>

#include "cpu/head_kernels.h"

namespace noema::cpu {

struct Candidate {
    float value;
    int32_t id;
};

/// The order of every list: larger values first, then lower ids.
inline bool likelier(const Candidate& a, const Candidate& b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

struct TopList {
    Candidate* items;  // room for `capacity`
    int64_t capacity;
    int64_t count = 0;
};

/// What one worker needs while it adds pieces to lists of a capacity.
struct TopScratch {
    int32_t* found;     // kHeadChunk + 16
    Candidate* merged;  // capacity + kHeadChunk, when the capacity exceeds kSortedList
};

/// Lists up to this length are kept sorted by insertion; longer ones are cut by a selection after each piece.
constexpr int64_t kSortedList = 32;

/// x holds n <= kHeadChunk logits of the ids first_id...; `peak` is theirs; id `excluded` is passed over.
struct Piece {
    const float* x;
    int64_t n;
    int32_t first_id;
    int32_t excluded;
    const Peak* peak;
};
void add_piece(TopList& list, const Piece& piece, const TopScratch& scratch);

/// Brings a complete list into order.
void sort_list(TopList& list);

}  // namespace noema::cpu
