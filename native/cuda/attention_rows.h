// What a block of attention keeps per row, in the registers of the threads that own it, and what it does with it where
// a part of the keys ends.
#pragma once

#include "attention.h"

namespace noema::cuda {

/// The rows of one thread: kRows of them, of each kPairs pairs of neighbouring values. `Own` says which:
///   row(r), column(pair): where they are; bool first_column(): whether this thread writes what exists once per row;
///   float2 total(r): room for the row's running total in shared memory.
template <int kRows, int kPairs, class Own>
struct PartialRows {
    RowSum part[kRows];
    bool parked = false;  // there is a running total; its values lie in `out`

    /// values(r, pair): two f32. Sums have been reduced over the threads of a row. The running total waits in `out`,
    /// which belongs to this block: registers for two sets of values there are not.
    template <class Values>
    __device__ __forceinline__ void end_part(const AttentionForward& p, const RowTile& tile, const Own& own, bool last,
                                             const Values& values) {
        RowSum total[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if (!parked) continue;
            const float2 before = own.total(r);
            total[r] = {before.x, before.y};
        }
        __syncwarp();
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if (own.row(r) < p.n.rows()) end_row(p, tile, own, r, last, total[r], values);
            if (!last && own.first_column()) own.total(r) = make_float2(total[r].max, total[r].sum);
            part[r] = {};
        }
        parked = true;
    }

 private:
    template <class Values>
    __device__ __forceinline__ void end_row(const AttentionForward& p, const RowTile& tile, const Own& own, int r,
                                            bool last, RowSum& total, const Values& values) {
        const RowPlace row = tile.place(p, own.row(r));
        float* to = row.out;
        bool pairs = p.out.pairs;
        const Blend both = blend(total, part[r], p.scale2);
        float factor = last ? total.inverse() : 1.0f;
        if (p.parts > 1) {
            to = p.part_values + row.part * p.n.D;
            pairs = p.n.D % 2 == 0;
            factor = 1;
            if (own.first_column()) p.part_sums[row.part] = part[r];
        } else if (last && p.lse && own.first_column()) {
            *row.lse = total.log_sum(p.scale);
        }
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
            float2 x = values(r, i);
            if (parked) {
                const float2 before = load_pair(to, own.column(i), p.n.D, pairs);
                x = make_float2(both(before.x, x.x), both(before.y, x.y));
            }
            store_pair(to, own.column(i), p.n.D, pairs, make_float2(x.x * factor, x.y * factor));
        }
    }
};

}  // namespace noema::cuda
