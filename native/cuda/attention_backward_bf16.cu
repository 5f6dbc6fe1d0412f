// Attention's backward on tensor cores, over bf16 copies of all four inputs. Each of four warps owns 16 rows of the
// block's 64; while a pair of tiles is worked on the next one is copied to the other half of the room.
// Shared memory: D 64: 55 KB, D 128: 70 KB (tiles of 32 others), D 256: 99 KB (16 others; keys in two blocks of 128
// result columns).
#include "attention_backward.h"
#include "attention_tiles.h"

namespace noema::cuda {

namespace {

constexpr int kOwnRows = 64, kThreads = 128;

template <int kWidth, int kOutWidth, int kOtherRows, bool kQueries>
struct Shape {
    static constexpr int kD = kWidth, kOut = kOutWidth, kOthers = kOtherRows, kStride = kD + 8;
    static constexpr int kParts = kD / kOut;
    static constexpr bool kQueriesOwn = kQueries;
    static constexpr int kOwnTile = kOwnRows * kStride, kOtherTile = kOthers * kStride;  // values
    static constexpr int kBytes = 2 * (2 * kOwnTile + 4 * kOtherTile);
};

/// A tile of queries or of keys: two matrices.
struct Tiles {
    Shared<bf16> one, two;
};

/// Parts of the QueryNote behind a row of queries.
template <int kD>
__device__ __forceinline__ float2 sums_at(Shared<bf16> queries, int row) {
    return (queries + (row * (kD + 8) + kD)).template as<float2>()[0];
}
template <int kD>
__device__ __forceinline__ KeyRun run_at(Shared<bf16> queries, int row) {
    const int2 run = (queries + (row * (kD + 8) + kD + 4)).template as<int2>()[0];
    return {run.x, run.y};
}

/// c[16, kRows] = left[16, kD] right[kRows, kD]ᵀ; `left` starts at the warp's rows.
template <int kD, int kRows>
__device__ __forceinline__ void multiply_tiles(float (&c)[kRows / 8][4], Shared<bf16> left, Shared<bf16> right) {
    constexpr int kStride = kD + 8;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Shared<bf16> mine = left + left_lane(lane, kStride), others = right + right_lane(lane, kStride);
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) c[n][i] = 0;
    }
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) {
        uint32_t a[4];
        load_matrices_x4(a, mine + 16 * k);
#pragma unroll
        for (int n = 0; n < kRows / 16; ++n) {
            uint32_t r[4];
            load_matrices_x4(r, others + (16 * n * kStride + 16 * k));
            multiply_pair(c[2 * n], c[2 * n + 1], a, r);
        }
    }
}

template <class S>
struct WarpGradients {
    float d_one[S::kOut / 8][4] = {};                       // d_q or d_k
    float d_two[S::kQueriesOwn ? 1 : S::kOut / 8][4] = {};  // d_v
    float weights[S::kOthers / 8][4], d_scores[S::kOthers / 8][4];
    Tiles own;  // the warp's rows
    int lane = static_cast<int>(threadIdx.x) % 32;

    __device__ __forceinline__ explicit WarpGradients(const Tiles& tiles) {
        const int first = static_cast<int>(threadIdx.x) / 32 * 16 * S::kStride;
        own = {tiles.one + first, tiles.two + first};
    }

    /// Scores and d_P become weights and d_S. first_own, first_other: positions.
    __device__ __forceinline__ void weigh(const AttentionGradients& p, const Tiles& others, int first_own,
                                          int first_other) {
        const Shared<bf16> queries = S::kQueriesOwn ? own.one : others.one;
        constexpr int kQueryRows = S::kQueriesOwn ? 16 : S::kOthers, kKeyRows = S::kQueriesOwn ? S::kOthers : 16;
        const int first_key = S::kQueriesOwn ? first_other : first_own;
        const auto query = [&](int i, int j) {
            return S::kQueriesOwn ? lane / 4 + 8 * (j / 2) : 8 * i + 2 * (lane % 4) + j % 2;
        };
        const auto key = [&](int i, int j) {
            return S::kQueriesOwn ? 8 * i + 2 * (lane % 4) + j % 2 : lane / 4 + 8 * (j / 2);
        };
#pragma unroll
        for (int i = 0; i < S::kOthers / 8; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float2 sums = sums_at<S::kD>(queries, query(i, j));  // lse2, delta
                weights[i][j] = weight_of(fmaf(weights[i][j], p.scale2, -sums.x));
                d_scores[i][j] = weights[i][j] * (d_scores[i][j] - sums.y);
            }
        }
        const KeyRun all{run_at<S::kD>(queries, kQueryRows - 1).low, run_at<S::kD>(queries, 0).high};
        if (all.covers(first_key, first_key + kKeyRows)) return;
#pragma unroll
        for (int i = 0; i < S::kOthers / 8; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (run_at<S::kD>(queries, query(i, j)).has(first_key + key(i, j))) continue;
                weights[i][j] = 0;
                d_scores[i][j] = 0;
            }
        }
    }

    __device__ __forceinline__ void add(const AttentionGradients& p, const Tiles& others, int first_own,
                                        int first_other, int part) {
        multiply_tiles<S::kD, S::kOthers>(weights, own.one, others.one);
        multiply_tiles<S::kD, S::kOthers>(d_scores, own.two, others.two);
        weigh(p, others, first_own, first_other);
        if constexpr (!S::kQueriesOwn)
            accumulate<S::kOthers, S::kOut>(d_two, weights, others.two + part * S::kOut, S::kStride);
        accumulate<S::kOthers, S::kOut>(d_one, d_scores, others.one + part * S::kOut, S::kStride);
    }

    __device__ __forceinline__ void store(const Heads& to, const OwnTile& tile, int D, float scale,
                                          const float (&x)[S::kOut / 8][4]) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = tile.first + static_cast<int>(threadIdx.x) / 32 * 16 + 8 * r + lane / 4;
            if (row >= tile.rows) continue;
            float* at = to.row(tile.b, row, tile.h);
#pragma unroll
            for (int i = 0; i < S::kOut / 8; ++i)
                store_pair(at, tile.part * S::kOut + 8 * i + 2 * (lane % 4), D, to.pairs,
                           make_float2(x[i][2 * r] * scale, x[i][2 * r + 1] * scale));
        }
    }
};

template <class S>
__global__ void __launch_bounds__(kThreads, 2) attention_gradients(AttentionGradients p) {
    const OwnTile tile(p, S::kQueriesOwn, kOwnRows, S::kParts);
    const OtherRows rows(p, S::kQueriesOwn, tile, kOwnRows);
    const Tiles own{dynamic_shared<bf16>(0, S::kOwnTile), dynamic_shared<bf16>(2 * S::kOwnTile, S::kOwnTile)};
    const auto room = [](int which) {
        return dynamic_shared<bf16>(2 * (2 * S::kOwnTile + which * S::kOtherTile), S::kOtherTile);
    };
    const Packed& own_one = S::kQueriesOwn ? p.queries : p.keys;
    const Packed& own_two = S::kQueriesOwn ? p.d_outs : p.values;
    const Packed& other_one = S::kQueriesOwn ? p.keys : p.queries;
    const Packed& other_two = S::kQueriesOwn ? p.values : p.d_outs;
    const int heads = p.n.Hkv * p.n.group, own_heads = S::kQueriesOwn ? heads : p.n.Hkv,
              other_heads = S::kQueriesOwn ? p.n.Hkv : heads;
    const int per_head = rows.tiles(S::kOthers), count = per_head * rows.heads, begin = rows.begin(S::kOthers);
    const auto depart = [&](int i) {
        if (i < count) {
            const int head = tile.b * other_heads + rows.first_head + i / per_head,
                      row = (begin + i % per_head) * S::kOthers;
            copy_run<kThreads>(room(i % 2 * 2), other_one.tile(head, row), S::kOtherTile);
            copy_run<kThreads>(room(i % 2 * 2 + 1), other_two.tile(head, row), S::kOtherTile);
        }
        copy_async_commit();
    };
    if (count > 0) {
        copy_run<kThreads>(own.one, own_one.tile(tile.b * own_heads + tile.h, tile.first), S::kOwnTile);
        copy_run<kThreads>(own.two, own_two.tile(tile.b * own_heads + tile.h, tile.first), S::kOwnTile);
    }
    depart(0);
    WarpGradients<S> warp(own);
    const int my_first = tile.first + static_cast<int>(threadIdx.x) / 32 * 16;
    for (int i = 0; i < count; ++i) {
        copy_async_wait<0>();
        __syncthreads();
        depart(i + 1);
        if (my_first < tile.rows)
            warp.add(p, {room(i % 2 * 2), room(i % 2 * 2 + 1)}, my_first, (begin + i % per_head) * S::kOthers,
                     tile.part);
    }
    copy_async_wait<0>();
    warp.store(S::kQueriesOwn ? p.d_q : p.d_k, tile, p.n.D, p.scale, warp.d_one);
    if constexpr (!S::kQueriesOwn) warp.store(p.d_v, tile, p.n.D, 1.0f, warp.d_two);
}

template <class S>
Status start(const AttentionGradients& p, const Stream& stream) {
    const int64_t heads = int64_t{p.n.B} * p.n.Hkv * (S::kQueriesOwn ? p.n.group : 1);
    const int64_t blocks = heads * S::kParts * ceil_div(S::kQueriesOwn ? p.n.Tq : p.n.Tk, kOwnRows);
    return launch(S::kQueriesOwn ? "attention backward: queries" : "attention backward: keys", stream,
                  {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = kThreads, .shared_bytes = S::kBytes},
                  attention_gradients<S>, p);
}

template <int kD, int kKeyColumns, int kOthers>
Status start_both(const AttentionGradients& p, const Stream& stream) {
    NOEMA_TRY((start<Shape<kD, kKeyColumns, kOthers, false>>(p, stream)));
    return start<Shape<kD, kD, kOthers, true>>(p, stream);
}

}  // namespace

Status attention_backward_bf16(const AttentionGradients& p, const Stream& stream) {
    switch (padded_width(p.n.D)) {
        case 32: return start_both<32, 32, 64>(p, stream);
        case 64: return start_both<64, 64, 64>(p, stream);
        case 128: return start_both<128, 128, 32>(p, stream);
        default: return start_both<256, 128, 16>(p, stream);
    }
}

}  // namespace noema::cuda
