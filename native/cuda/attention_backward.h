// What the kernels of attention's backward share. With P the weights, recomputed from lse, and S their scores:
//
//   d_v = Pᵀ d_out    d_P = d_out vᵀ    d_S = P (d_P - sum(d_out out))    d_q = scale d_S k    d_k = scale d_Sᵀ q
//
// One kernel form serves twice. A block owns a tile of rows of two matrices and passes over tiles of two others:
//
//   queries own   q, d_out; others k, v        two products and d_q
//   keys own      k, v;     others q, d_out    the same two, transposed, and d_k, d_v; heads of a group in order
//
// Every sum has one owner and one order, so there are no atomics; the price over a single pass is two of seven
// products.
#pragma once

#include "attention.h"

namespace noema::cuda {

struct AttentionGradients {
    AttentionSizes n;
    Heads q, k, v, out, d_out, d_q, d_k, d_v;
    const float* lse;
    int64_t lse_sequence, lse_head;
    KeyMask mask;
    float scale, scale2;
    Packed queries, d_outs, keys, values;  // bf16
    float* delta;                          // f32: [B, H, Tq] sums of d_out out
};

Status attention_backward_f32(const AttentionGradients& p, const Stream& stream);
Status attention_backward_bf16(const AttentionGradients& p, const Stream& stream);

/// The rows that a block owns.
struct OwnTile {
    int b, h, part, first, rows;  // part: of the columns of the results

    __device__ __forceinline__ OwnTile(const AttentionGradients& p, bool queries, int tile_rows, int parts) {
        const int heads = queries ? p.n.Hkv * p.n.group : p.n.Hkv;
        rows = queries ? p.n.Tq : p.n.Tk;
        const int tiles = (rows + tile_rows - 1) / tile_rows;
        unsigned index = blockIdx.x;
        const int tile = static_cast<int>(index % tiles);
        // With a causal mask late queries and early keys have the most to do.
        first = (queries ? tiles - 1 - tile : tile) * tile_rows;
        index /= tiles;
        part = static_cast<int>(index % parts);
        index /= parts;
        h = static_cast<int>(index % heads);
        b = static_cast<int>(index / heads);
    }
};

/// Rows [low, high) of the others that the tile has to do with, and how many heads of them.
struct OtherRows {
    int low, high, first_head, heads;

    __device__ __forceinline__ OtherRows(const AttentionGradients& p, bool queries_own, const OwnTile& own,
                                         int tile_rows) {
        const int last = min(own.first + tile_rows, own.rows) - 1;
        first_head = queries_own ? own.h / p.n.group : own.h * p.n.group;
        heads = queries_own ? 1 : p.n.group;
        if (queries_own) {
            low = visible_keys(p.mask, own.b, own.first, p.n.Tk).low;
            high = visible_keys(p.mask, own.b, last, p.n.Tk).high;
            return;
        }
        const KeyRun most{visible_keys(p.mask, own.b, 0, p.n.Tk).low,
                          visible_keys(p.mask, own.b, p.n.Tq - 1, p.n.Tk).high};
        int64_t from = 0, to = p.n.Tq;
        if (p.mask.causal) from = max(from, own.first - p.mask.offset);
        if (p.mask.causal && p.mask.window > 0) to = min(to, last - p.mask.offset + p.mask.window);
        if (last < most.low || own.first >= most.high) to = from;
        low = static_cast<int>(from < to ? from : 0);
        high = static_cast<int>(from < to ? to : 0);
    }
    __device__ __forceinline__ int begin(int tile) const { return low / tile; }
    __device__ __forceinline__ int tiles(int tile) const {
        return low < high ? (high - 1) / tile + 1 - begin(tile) : 0;
    }
};

/// A weight from its score. It is at most 1; where scores are huge their rounding would make more of it.
__device__ __forceinline__ float weight_of(float exponent) {
    return fast_exp2(exponent > 0 ? 0.0f : exponent);
}

}  // namespace noema::cuda
