// What the files of sequential_inverse share.
#pragma once

#include <algorithm>

#include "cpu/component_table.h"
#include "cpu/matmul_block.h"
#include "cpu/spin_barrier.h"
#include "noema/backend.h"

namespace noema::cpu {

// --- per instruction set (sequential_kernels.cpp) ------------------------------------------------------------------------

/// Keys or values of one head of one sequence as attention reads them, position after position: rows of padded_head(D) numbers, zeros
/// behind D; of bf16 where products are, to which they have been rounded. Where they lie among those of other heads, a few lines of every
/// page, the hardware does not see what comes next.
constexpr int64_t padded_head(int64_t D) {
    return divide_up(D, 16) * 16;
}
constexpr int64_t kept_bytes(int64_t positions, int64_t D, bool rounding) {
    return positions * padded_head(D) * (rounding ? 2 : 4);
}
/// Rows of D numbers, `stride` apart, into that form.
struct KeptRows {
    const float* rows;
    int64_t stride, count, D;
    bool rounding;
};
void keep_rows(const KeptRows& rows, void* to);
/// Queries into theirs: the same in f32.
void keep_queries(const KeptRows& rows, float* to);

/// Neighbouring queries of one head of one sequence, and what they see. What comes of a query does not depend on how many are treated at
/// once.
struct HeadQueries {
    const void *keys, *values;            // kept, from position 0 on
    const void *next_keys, *next_values;  // of the head attended next, or these
    int64_t first;  // keys that the first query sees; each further one sees one more, as long as there are
    int64_t keys_given;
    int64_t count;         // of queries
    const float* queries;  // [count,padded_head(D)]
    int64_t D;
    float scale;
    bool rounding;   // keys and values are bf16, weights are rounded to it
    float* weights;  // scratch [kQueriesAtOnce,room_for_weights(the most that one sees)]
    float* out;      // [count,D], `out_stride` apart
    int64_t out_stride;

    int64_t seen(int64_t query) const { return std::min(first + query, keys_given); }
};
/// More than that share no more of a key's loads than they cost in registers.
constexpr int64_t kQueriesAtOnce = 4;
void attend(const HeadQueries& queries);

/// One head of one sequence at its newest position: that position's key and value enter the caches, then its query, which goes to
/// `query`, reads them.
struct CachedHead {
    const float *q, *k, *v;       // [D] before rope
    const float* angles;          // [D]: D/2 cosines, D/2 sines
    float *key, *value;           // rows of the caches
    void *kept_key, *kept_value;  // and of what is read
    float* query;                 // scratch [padded_head(D)]
    HeadQueries reading;          // of `query`
};
void attend_newest(const CachedHead& head);
constexpr int64_t room_for_weights(int64_t positions) {
    return (positions + 15) / 16 * 16;
}

/// x[0..n) to bf16 and back, in place.
void round_row(float* x, int64_t n);

// --- one worker's part of the loop (sequential_inverse.cpp) --------------------------------------------------------------

/// The part of `count` equal pieces of work that is a worker's. What a piece computes does not depend on who has it.
struct Share {
    int64_t first, last;
    Share(int64_t count, int worker, int team) : first(count * worker / team), last(count * (worker + 1) / team) {}
    int64_t size() const { return last - first; }
};

struct InverseSizes {
    int64_t B, N, c, C, H, D, F;
    int64_t made;   // columns that the head makes per position: parameters, or mixture_cdf's context
    int64_t units;  // of a position that are inverted independently: a patch's tokens under mixture_rosenblatt

    int64_t width() const { return c / units; }

    explicit InverseSizes(const SequentialInverse& p);
};

/// The product that makes them: head.weight, or mixture_cdf's head.context.
struct MakingProduct {
    const Weight& weight;
    const View& bias;
};
inline MakingProduct making_product(const InverseHead& head) {
    if (head.kind == CouplingKind::mixture_cdf) return {head.context, head.context_bias};
    return {head.weight, head.bias};
}

// --- a coupling at one position (sequential_couplings.cpp) ------------------------------------------------

/// mixture_cdf's matrices of every scalar i, features_i [M,i*E] and out_i [3K,M], one after the other as products want them.
struct GroupedPanels {
    std::byte *features, *out;

    template <class Take>
    void lay_out(const SequentialInverse& p, const Take& take) {
        const bool grouped = p.head.kind == CouplingKind::mixture_cdf;
        const int64_t c = grouped ? p.u.shape[2] : 0;
        take(features, features_at(p.head, c));
        take(out, out_at(p.head, c));
    }
    static int64_t features_at(const InverseHead& h, int64_t i) {
        return divide_up(h.M, kPanelColumns) * (i * (i - 1) / 2 * h.E) * kStepBytes;
    }
    static int64_t out_at(const InverseHead& h, int64_t i) {
        return i * divide_up(3 * h.K, kPanelColumns) * h.M * kStepBytes;
    }
    /// A share of the scalars'.
    void pack(const InverseHead& head, Share scalars) const;
};

/// A worker's memory for it.
struct CouplingScratch {
    double* found;       // [B,c]
    float* narrow;       // [B,c] of mixture_cdf, as its head reads it
    int32_t* failed;     // [B*units]
    int32_t* of_scalar;  // [B]
    float* features;     // [B,(c-1)*E]
    float* hidden;       // [B,M]
    float* parameters;   // [B,3K]
    std::byte* rows;     // B of a product, packed, a block of steps
    float* sums;         // [B,sum_columns()] of a product
    std::byte* search;   // what the coupling's own op asks for
    size_t search_bytes;

    template <class Take>
    void lay_out(const SequentialInverse& p, const Take& take) {
        const InverseSizes s(p);
        const InverseHead& h = p.head;
        take(found, s.B * s.c);
        take(failed, s.B * s.units);
        search_bytes = bytes_of_search(p);
        take(search, static_cast<int64_t>(search_bytes));
        if (h.kind != CouplingKind::mixture_cdf) return;
        take(features, s.B * (s.c - 1) * h.E);
        take(narrow, s.B * s.c);
        take(of_scalar, s.B);
        take(hidden, s.B * h.M);
        take(parameters, s.B * 3 * h.K);
        take(rows, s.B * row_pitch(Packing::f32));
        take(sums, s.B * sum_columns(h));
    }
    static int64_t sum_columns(const InverseHead& h) {
        return divide_up(std::max(h.M, 3 * h.K), kPanelColumns) * kPanelColumns;
    }
    static size_t bytes_of_search(const SequentialInverse& p);
};

/// h[b,n] for a share of all sequences' units, from what the head made [B,made]; their failures are added to failed[b,n].
struct CouplingTask {
    const SequentialInverse& p;
    const float* made;
    const ComponentTable& table;  // mixture_rosenblatt's
    const GroupedPanels& panels;  // mixture_cdf's
    int64_t n;
    Share units;
};
void uncouple_position(const CouplingTask& task, const CouplingScratch& scratch);

}  // namespace noema::cpu
