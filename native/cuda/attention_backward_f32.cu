// Attention's backward in true f32. Shared memory: D 64: 71 KB, D 128: 77 KB, D 256: 70 KB.
#include "attention_backward.h"
#include "attention_scalar.h"

namespace noema::cuda {

namespace {

template <int kWidth, int kOtherRows, int kWarps, bool kQueries>
struct Shape {
    static constexpr int kD = kWidth, kOthers = kOtherRows, kThreads = 32 * kWarps, kRows = kWarpRows * kWarps;
    static constexpr bool kQueriesOwn = kQueries;
    static constexpr int kStride = kD + 4, kColumns = kOthers / 16, kQuads = kD / 64;
    static constexpr int kOwnTile = kRows * kStride, kOtherTile = kOthers * kStride,
                         kSquare = kRows * (kOthers + 4);  // values
    static constexpr int kBytes = 4 * 2 * (kOwnTile + kOtherTile + kSquare);
};

/// Rows of two matrices.
struct Tiles {
    Shared<float> one, two;
    __device__ __forceinline__ Tiles from(int value) const { return {one + value, two + value}; }
};

/// Where tiles begin: sequence, head of the queries, row of the warp, row of the others.
struct Position {
    int b, query_head, own, other;
};

struct Note {
    float lse, delta;
    KeyRun run;
};

__device__ __forceinline__ Note note_of(const AttentionGradients& p, const Position& at, int i) {
    if (i >= p.n.Tq) return {INFINITY, 0, {0, 0}};
    const float lse = p.lse[at.b * p.lse_sequence + at.query_head * p.lse_head + i];
    const float delta = p.delta[(int64_t{at.b} * p.n.Hkv * p.n.group + at.query_head) * p.n.Tq + i];
    return {lse == -INFINITY ? INFINITY : lse, delta, visible_keys(p.mask, at.b, i, p.n.Tk)};
}

/// Rows [low, high) of one head of two tensors, from row `first` on; zeros outside.
template <int kRows, class S>
__device__ __forceinline__ void load_tiles(const Tiles& to, const Heads& one, const Heads& two, int D,
                                           const Position& at, const KeyRun& rows, int head, int first) {
    load_rows<kRows, S::kD, S::kThreads>(to.one, D, one.quads, [&](int r) -> const float* {
        return rows.has(first + r) ? one.row(at.b, first + r, head) : nullptr;
    });
    load_rows<kRows, S::kD, S::kThreads>(to.two, D, two.quads, [&](int r) -> const float* {
        return rows.has(first + r) ? two.row(at.b, first + r, head) : nullptr;
    });
}

/// Tiles begin at the warp's rows, but for `others`.
template <class S>
struct ThreadGradients {
    float4 d_one[kThreadRows][S::kQuads] = {};                       // d_q or d_k
    float4 d_two[kThreadRows][S::kQueriesOwn ? 1 : S::kQuads] = {};  // d_v

    /// Weights and d_S go to `squares`.
    __device__ __forceinline__ static void weigh(const AttentionGradients& p, const Tiles& own, const Tiles& others,
                                                 const Tiles& squares, const Position& at) {
        const int depth = (p.n.D + 3) / 4 * 4;
        float scores[kThreadRows][S::kColumns], d_weights[kThreadRows][S::kColumns];
        products<S::kColumns, S::kStride>(scores, own.one, others.one, depth);
        products<S::kColumns, S::kStride>(d_weights, own.two, others.two, depth);
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
            for (int j = 0; j < S::kColumns; ++j) {
                const int row = lane_rows() + r, column = lane_column() + 16 * j;
                const Note note = note_of(p, at, S::kQueriesOwn ? at.own + row : at.other + column);
                const bool seen = note.run.has(S::kQueriesOwn ? at.other + column : at.own + row);
                const float weight = weight_of(fmaf(scores[r][j], p.scale, -note.lse) * kLog2E);
                const int cell = row * (S::kOthers + 4) + column;
                if constexpr (!S::kQueriesOwn) squares.two[cell] = seen ? weight : 0.0f;
                squares.one[cell] = seen ? weight * (d_weights[r][j] - note.delta) : 0.0f;
            }
        }
        __syncwarp();
    }

    __device__ __forceinline__ void add(const AttentionGradients& p, const Tiles& own, const Tiles& others,
                                        const Tiles& squares, const Position& at) {
        weigh(p, own, others, squares, at);
        if constexpr (!S::kQueriesOwn)
            accumulate_rows<S::kOthers, S::kQuads, S::kStride>(d_two, squares.two, others.two);
        accumulate_rows<S::kOthers, S::kQuads, S::kStride>(d_one, squares.one, others.one);
    }

    __device__ __forceinline__ static void store(const Heads& to, const OwnTile& tile, int first, int D, float scale,
                                                 const float4 (&x)[kThreadRows][S::kQuads]) {
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) {
            const int row = first + lane_rows() + r;
            if (row >= tile.rows) continue;
            float* at = to.row(tile.b, row, tile.h);
#pragma unroll
            for (int q = 0; q < S::kQuads; ++q) {
                const int column = 4 * lane_column() + 64 * q;
                store_pair(at, column, D, to.pairs, make_float2(x[r][q].x * scale, x[r][q].y * scale));
                store_pair(at, column + 2, D, to.pairs, make_float2(x[r][q].z * scale, x[r][q].w * scale));
            }
        }
    }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) attention_gradients_f32(AttentionGradients p) {
    const OwnTile tile(p, S::kQueriesOwn, S::kRows, 1);
    const OtherRows rows(p, S::kQueriesOwn, tile, S::kRows);
    const auto room = [](int from, int length) { return dynamic_shared<float>(4 * from, length); };
    constexpr int kOthersAt = 2 * S::kOwnTile, kSquaresAt = kOthersAt + 2 * S::kOtherTile;
    const Tiles own{room(0, S::kOwnTile), room(S::kOwnTile, S::kOwnTile)};
    const Tiles others{room(kOthersAt, S::kOtherTile), room(kOthersAt + S::kOtherTile, S::kOtherTile)};
    const Tiles squares{room(kSquaresAt, S::kSquare), room(kSquaresAt + S::kSquare, S::kSquare)};
    const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
    Position at{tile.b, tile.h, tile.first + warp_row, 0};
    load_tiles<S::kRows, S>(own, S::kQueriesOwn ? p.q : p.k, S::kQueriesOwn ? p.d_out : p.v, p.n.D, at, {0, tile.rows},
                            tile.h, tile.first);
    ThreadGradients<S> mine;
    const int per_head = rows.tiles(S::kOthers);
    for (int i = 0; i < per_head * rows.heads; ++i) {
        const int head = rows.first_head + i / per_head;
        at.other = (rows.begin(S::kOthers) + i % per_head) * S::kOthers;
        if (!S::kQueriesOwn) at.query_head = head;
        __syncthreads();
        load_tiles<S::kOthers, S>(others, S::kQueriesOwn ? p.k : p.q, S::kQueriesOwn ? p.v : p.d_out, p.n.D, at,
                                  {rows.low, rows.high}, head, at.other);
        __syncthreads();
        if (at.own < tile.rows)
            mine.add(p, own.from(warp_row * S::kStride), others, squares.from(warp_row * (S::kOthers + 4)), at);
    }
    mine.store(S::kQueriesOwn ? p.d_q : p.d_k, tile, at.own, p.n.D, p.scale, mine.d_one);
    if constexpr (!S::kQueriesOwn) mine.store(p.d_v, tile, at.own, p.n.D, 1.0f, mine.d_two);
}

template <class S>
Status start(const AttentionGradients& p, const Stream& stream) {
    const int64_t heads = int64_t{p.n.B} * p.n.Hkv * (S::kQueriesOwn ? p.n.group : 1);
    const int64_t blocks = heads * ceil_div(S::kQueriesOwn ? p.n.Tq : p.n.Tk, S::kRows);
    return launch(S::kQueriesOwn ? "attention backward: f32 queries" : "attention backward: f32 keys", stream,
                  {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = S::kThreads, .shared_bytes = S::kBytes},
                  attention_gradients_f32<S>, p);
}

template <int kD, int kOthers, int kWarps>
Status start_both(const AttentionGradients& p, const Stream& stream) {
    NOEMA_TRY((start<Shape<kD, kOthers, kWarps, false>>(p, stream)));
    return start<Shape<kD, kOthers, kWarps, true>>(p, stream);
}

}  // namespace

Status attention_backward_f32(const AttentionGradients& p, const Stream& stream) {
    if (p.n.D <= 64) return start_both<64, 32, 8>(p, stream);
    if (p.n.D <= 128) return start_both<128, 32, 4>(p, stream);
    return start_both<256, 16, 2>(p, stream);
}

}  // namespace noema::cuda
