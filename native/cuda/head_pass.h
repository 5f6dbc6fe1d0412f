// The pass of head.h with any product of common/product.h: a block forms the logits of a tile of rows and a slice of the
// vocabulary, tile after tile. A row's tokens are reduced in pieces (the columns that a warp has of a tile), the pieces are
// merged in their order; so its bits do not depend on how many rows a tile has, as long as all tiles have the same pieces.
#pragma once

#include "common/product.h"
#include "head_state.h"

namespace noema::cuda {

/// The sums of a tile become logits: -inf where there is no token, +inf for NaN.
template <class Product>
__device__ __forceinline__ void form_logits(Product& sums, const HeadPass& p, int column) {
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
        const int v = column + sums.column(j);
        const bool allowed = v < p.V && v != p.excluded;
        const float bias = allowed && p.bias ? p.bias[v] : 0.0f;
#pragma unroll
        for (int i = 0; i < Product::kRows; ++i) {
            const float x = sums.at(i, j) + bias;
            sums.at(i, j) = !allowed ? -HUGE_VALF : x == x ? x : HUGE_VALF;
        }
    }
}

/// Leaves in memory what is wanted of the logits themselves.
template <class Product>
__device__ __forceinline__ void keep_logits(Product& sums, const HeadPass& p, int row0, int column) {
    if (!p.logits && !p.targets) return;
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i) {
        const int row = row0 + sums.row(i);
        if (row >= p.hidden.lines) continue;
        const int target = p.targets ? p.targets[row] - column : -1;
#pragma unroll
        for (int j = 0; j < Product::kColumns; j += 2) {
            const int c = sums.column(j);
            if (p.logits && column + c < p.V)
                *reinterpret_cast<float2*>(p.logits + row * p.logits_pitch + column + c) =
                    make_float2(sums.at(i, j), sums.at(i, j + 1));
            if (c == target || c + 1 == target) p.target_logits[row] = c == target ? sums.at(i, j) : sums.at(i, j + 1);
        }
    }
}

/// Row i's piece, without noise: all its lanes get it.
template <class Product>
__device__ __forceinline__ HeadState piece_state(Product& sums, int i, int column) {
    HeadState s = empty_state();
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
        const float x = sums.at(i, j);
        s.second = fmaxf(s.second, fminf(s.max, x));
        if (x > s.max) s.max = x, s.best = column + sums.column(j);
    }
#pragma unroll
    for (int bits = Product::kRowLanes / 2; bits > 0; bits /= 2) {
        const float max = __shfl_xor_sync(kAllLanes, s.max, bits), second = __shfl_xor_sync(kAllLanes, s.second, bits);
        const int best = __shfl_xor_sync(kAllLanes, s.best, bits);
        s.second = fmaxf(fminf(s.max, max), fmaxf(s.second, second));
        if (max > s.max || (max == s.max && best < s.best)) s.max = max, s.best = best;
    }
    const float base = s.max == -HUGE_VALF ? 0.0f : s.max;
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
        const float t = sums.at(i, j) - base, e = exp_of(t);
        s.sum += e;
        s.weighted = fmaf(e, fmaxf(t, -1000.0f), s.weighted);  // e is 0 there; -inf would be NaN
    }
    s.sum = warp_reduce(s.sum, Sum{}, Product::kRowLanes);
    s.weighted = warp_reduce(s.weighted, Sum{}, Product::kRowLanes);
    return s;
}

/// Whether neighbours have half of a block of four tokens each. Of two rows one forms the blocks of the first, the other those of
/// the second, and they give each other half.
template <class Product>
constexpr bool kSharesBlocks = Product::kRowLanes == 4;

/// The rows whose blocks a thread forms: i and i + 1, or one of them.
template <class Product>
struct Seeds {
    RowSeed row[kSharesBlocks<Product> ? 1 : 2];

    __device__ __forceinline__ Seeds(const HeadPass& p, int row0, int i) {
        const int last = p.hidden.lines - 1, first = row0 + Product::row(i), second = row0 + Product::row(i + 1);
        if constexpr (kSharesBlocks<Product>) {
            row[0] = row_seed(p.noise, min(threadIdx.x % 2 ? second : first, last));
        } else {
            row[0] = row_seed(p.noise, min(first, last));
            row[1] = row_seed(p.noise, min(second, last));
        }
    }
};

/// Random bits of both rows for the tokens v (even) and v + 1.
template <class Product>
__device__ __forceinline__ void random_bits(const Seeds<Product>& seeds, int v, uint32_t (&bits)[2][2]) {
    if constexpr (kSharesBlocks<Product>) {
        const bool odd = threadIdx.x % 2 != 0;
        const Philox own = token_bits(seeds.row[0], v / 4);
        const uint32_t other0 = __shfl_xor_sync(kAllLanes, odd ? own.x[0] : own.x[2], 1);
        const uint32_t other1 = __shfl_xor_sync(kAllLanes, odd ? own.x[1] : own.x[3], 1);
        bits[0][0] = odd ? other0 : own.x[0], bits[0][1] = odd ? other1 : own.x[1];
        bits[1][0] = odd ? own.x[2] : other0, bits[1][1] = odd ? own.x[3] : other1;
    } else {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const Philox own = token_bits(seeds.row[r], v / 4);
            bits[r][0] = v % 4 ? own.x[2] : own.x[0], bits[r][1] = v % 4 ? own.x[3] : own.x[1];
        }
    }
}

__device__ __forceinline__ void take_score(HeadState& s, float score, int id, float logit) {
    if (!(score > s.score || (score == s.score && id < s.chosen))) return;
    s.score = score, s.chosen = id, s.chosen_logit = logit;
}

/// The best scores of rows i and i + 1.
template <class Product>
__device__ __forceinline__ void add_noise(Product& sums, const HeadPass& p, int row0, int column, int i,
                                          HeadState (&s)[2]) {
    const Seeds<Product> seeds(p, row0, i);
#pragma unroll
    for (int j = 0; j < Product::kColumns; j += 2) {
        const int v = column + sums.column(j);
        uint32_t bits[2][2];
        random_bits(seeds, v, bits);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const float x = sums.at(i + r, j + k);
                if (x > -HUGE_VALF) take_score(s[r], fmaf(x - s[r].max, p.noise.beta, gumbel_of(bits[r][k])), v + k, x);
            }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int lanes = Product::kRowLanes / 2; lanes > 0; lanes /= 2) {
            const float score = __shfl_xor_sync(kAllLanes, s[r].score, lanes);
            const float logit = __shfl_xor_sync(kAllLanes, s[r].chosen_logit, lanes);
            take_score(s[r], score, __shfl_xor_sync(kAllLanes, s[r].chosen, lanes), logit);
        }
}

/// Every piece of the tile, to shared memory: [row][piece], two halves each.
template <class Product, bool kNoise>
__device__ __forceinline__ void reduce_tile(Product& sums, const HeadPass& p, int row0, int column,
                                            Shared<float4> pieces) {
#pragma unroll
    for (int i = 0; i < Product::kRows; i += 2) {
        HeadState s[2] = {piece_state(sums, i, column), piece_state(sums, i + 1, column)};
        const bool writes = threadIdx.x % Product::kRowLanes == 0;
        const Shared<float4> at[2] = {pieces + 2 * (sums.row(i) * Product::kRowWarps + sums.row_part()),
                                      pieces + 2 * (sums.row(i + 1) * Product::kRowWarps + sums.row_part())};
        if (writes) at[0][0] = first_half(s[0]), at[1][0] = first_half(s[1]);
        if constexpr (kNoise) add_noise(sums, p, row0, column, i, s);
        if (writes) at[0][1] = second_half(s[0]), at[1][1] = second_half(s[1]);
    }
}

/// Merges row `row`'s pieces of a tile into what the slice's tiles before left (in memory: registers are the product's).
template <class Product>
__device__ __forceinline__ void merge_pieces(HeadState* at, int row, bool begins, float beta, Shared<float4> pieces) {
    HeadState state = begins ? empty_state() : read_state(at);
    for (int piece = 0; piece < Product::kRowWarps; ++piece) {
        const int from = 2 * (row * Product::kRowWarps + piece);
        state = merged(state, state_of(pieces[from], pieces[from + 1]), beta);
    }
    write_state(at, state);
}

/// kBlocks on a multiprocessor: one's exponentials and random numbers go on beside the other's products.
template <class Product, int kBlocks, bool kNoise>
__global__ void __launch_bounds__(Product::kThreads, kBlocks) head_pass(HeadPass p) {
    constexpr int kPieces = 2 * Product::kM * Product::kRowWarps;
    static_assert(16 * kPieces <= Product::kSharedBytes && Product::kM <= Product::kThreads);
    const int row0 = static_cast<int>(blockIdx.x) * Product::kM, own = static_cast<int>(threadIdx.x);
    if (p.count && row0 >= *p.count) return;
    const int first = static_cast<int>(blockIdx.y) * p.slice, last = min(first + p.slice, p.V);
    const Shared<float4> pieces = dynamic_shared<float4>(0, kPieces);  // where the product's slabs were
    Product sums;
    for (int column = first; column < last; column += Product::kN) {
        sums.clear();
        sums.run({p.hidden, row0, p.weight, column}, 0, p.C);
        form_logits(sums, p, column);
        keep_logits(sums, p, row0, column);
        reduce_tile<Product, kNoise>(sums, p, row0, column, pieces);
        __syncthreads();
        if (own < Product::kM && row0 + own < p.hidden.lines)
            merge_pieces<Product>(p.states + static_cast<int64_t>(row0 + own) * p.slices + blockIdx.y, own,
                                  column == first, p.noise.beta, pieces);
        __syncthreads();
    }
}

/// Tiles of rows go fastest: the blocks that run at a time share their part of the weight.
template <class Product, int kBlocks, int kNoiseBlocks = kBlocks>
Status launch_pass(const char* name, const HeadPass& p, const Stream& stream) {
    const dim3 blocks(static_cast<unsigned>(ceil_div(p.hidden.lines, Product::kM)), static_cast<unsigned>(p.slices));
    return launch(name, stream, {.blocks = blocks, .threads = Product::kThreads, .shared_bytes = Product::kSharedBytes},
                  p.noise.seeds ? head_pass<Product, kNoiseBlocks, true> : head_pass<Product, kBlocks, false>, p);
}

}  // namespace noema::cuda
