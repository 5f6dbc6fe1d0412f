// What the files of sequential_inverse share.
#pragma once

#include "cpu/component_table.h"
#include "cpu/matmul_block.h"
#include "cpu/spin_barrier.h"
#include "noema/backend.h"

namespace noema::cpu {

// --- per instruction set (sequential_kernels.cpp) ------------------------------------------------------------------------

/// One head of one sequence at its newest position: that position's key and value enter the caches, then its query reads them.
struct CachedHead {
    const float *q, *k, *v;  // [D] before rope
    const float* angles;     // [D]: D/2 cosines, D/2 sines
    float *keys, *values;    // this head's rows of the caches, `stride` apart, of position 0
    int64_t stride;
    int64_t position;  // the newest
    int64_t D;
    float scale;
    bool rounding;   // query, keys, values and weights to bf16; those in the caches have been
    float* query;    // scratch [D]
    float* weights;  // scratch [room_for_weights(position + 1)]
    float* out;      // [D]
};
void attend_newest(const CachedHead& head);
constexpr int64_t room_for_weights(int64_t positions) {
    return (positions + 15) / 16 * 16;
}

/// x[0..n) to bf16 and back, in place.
void round_row(float* x, int64_t n);

/// y[b,r] = start[b,r] + weight[r] · x[b], in f32: the rows of a matrix too small to be packed, for some sequences.
struct RowProducts {
    const std::byte* weight;  // [rows, K]
    DType dtype;              // f32 or bf16
    int64_t pitch;            // elements, as those below
    int64_t rows, K, sequences;
    const float* x;
    int64_t x_pitch;
    const float* start;
    int64_t start_pitch;  // 0 where all sequences start with the same
    float* y;
    int64_t y_pitch;
};
void multiply_rows_by(const RowProducts& p);

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

/// A worker's memory for it.
struct CouplingScratch {
    double* found;       // [B,c]
    float* narrow;       // [B,c] of mixture_cdf, as its head reads it
    int32_t* failed;     // [B*units]
    int32_t* of_scalar;  // [B]
    float* features;     // [B,(c-1)*E]
    float* hidden;       // [B,M]
    float* parameters;   // [B,3K]
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
    }
    static size_t bytes_of_search(const SequentialInverse& p);
};

/// h[b,n], or forward u[b,n], for a share of all sequences' units, from what the head made [B,made]; their failures are added to failed[b,n].
struct CouplingTask {
    const SequentialInverse& p;
    const float* made;
    const ComponentTable* table;  // mixture_rosenblatt's
    int64_t n;
    Share units;
};
void uncouple_position(const CouplingTask& task, const CouplingScratch& scratch);

}  // namespace noema::cpu
