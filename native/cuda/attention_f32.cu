// Attention in true f32. A block takes 64 (wide heads: 32) rows through the tiles of keys; keys and values take turns
// in one buffer.
// Shared memory: D 64: 52 KB, D 128: 85 KB, D 256: 71 KB.
#include "attention_rows.h"
#include "attention_scalar.h"

namespace noema::cuda {

namespace {

template <int kWidth, int kTileOf, int kWarps>
struct Shape {
    static constexpr int kD = kWidth, kKeys = kTileOf, kThreads = 32 * kWarps, kRows = kWarpRows * kWarps;
    static constexpr int kStride = kD + 4, kColumns = kKeys / 16, kQuads = kD / 64;
    static constexpr int kQueries = kRows * kStride, kTile = kKeys * kStride, kWeights = kRows * (kKeys + 4);  // values
    static constexpr int kBytes = 4 * (kQueries + kTile + kWeights) + 8 * kRows;
};

template <class S>
struct ThreadRows {
    int in_tile, first;
    __device__ __forceinline__ explicit ThreadRows(const RowTile& tile)
        : in_tile(static_cast<int>(threadIdx.x) / 32 * kWarpRows + lane_rows()), first(tile.first + in_tile) {}
    __device__ __forceinline__ int row(int r) const { return first + r; }
    __device__ __forceinline__ int column(int i) const { return 4 * lane_column() + 64 * (i / 2) + 2 * (i % 2); }
    __device__ __forceinline__ bool first_column() const { return lane_column() == 0; }
    __device__ __forceinline__ decltype(auto) total(int r) const {
        return dynamic_shared<float2>(4 * (S::kQueries + S::kTile + S::kWeights), S::kRows)[in_tile + r];
    }
};

template <class S>
struct WarpRows {
    ThreadRows<S> own;
    PartialRows<kThreadRows, 2 * S::kQuads, ThreadRows<S>> rows;
    float4 acc[kThreadRows][S::kQuads] = {};

    __device__ __forceinline__ explicit WarpRows(const RowTile& tile) : own(tile) {}

    /// Scores become weights, for the warp to see.
    __device__ __forceinline__ void softmax(const AttentionForward& p, const RowTile& tile, int n,
                                            float (&scores)[kThreadRows][S::kColumns], Shared<float> weights) {
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) {
            const KeyRun seen = tile.run(p, own.row(r));
            float most = -INFINITY;
#pragma unroll
            for (int j = 0; j < S::kColumns; ++j) {
                if (!seen.has(n * S::kKeys + lane_column() + 16 * j)) scores[r][j] = -INFINITY;
                most = fmaxf(most, scores[r][j]);
            }
#pragma unroll
            for (int bits = 8; bits > 0; bits /= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, bits));
            RowSum& sum = rows.part[r];
            const float factor = sum.raise(most, p.scale2), origin = sum.origin();
            float tile_sum = 0;
#pragma unroll
            for (int j = 0; j < S::kColumns; ++j) {
                const float weight = fast_exp2((scores[r][j] - origin) * p.scale2);
                weights[(lane_rows() + r) * (S::kKeys + 4) + lane_column() + 16 * j] = weight;
                tile_sum += weight;
            }
            sum.sum = fmaf(sum.sum, factor, tile_sum);
#pragma unroll
            for (int q = 0; q < S::kQuads; ++q) {
                float4& x = acc[r][q];
                x = make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
            }
        }
    }

    __device__ __forceinline__ void weigh(const AttentionForward& p, const RowTile& tile, int n, Shared<float> queries,
                                          Shared<float> keys, Shared<float> weights) {
        float scores[kThreadRows][S::kColumns];
        products<S::kColumns, S::kStride>(scores, queries, keys, (p.n.D + 3) / 4 * 4);
        softmax(p, tile, n, scores, weights);
    }

    __device__ __forceinline__ void end_part(const AttentionForward& p, const RowTile& tile, bool last) {
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) rows.part[r].sum = warp_reduce(rows.part[r].sum, Sum{}, 16);
        rows.end_part(p, tile, own, last, [&](int r, int i) {
            const float4 x = acc[r][i / 2];
            return i % 2 ? make_float2(x.z, x.w) : make_float2(x.x, x.y);
        });
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r)
#pragma unroll
            for (int q = 0; q < S::kQuads; ++q) acc[r][q] = make_float4(0, 0, 0, 0);
    }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) attention_tiles(AttentionForward p) {
    const RowTile tile(p, S::kRows);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const Shared<float> queries = dynamic_shared<float>(0, S::kQueries);
    const Shared<float> keys = dynamic_shared<float>(4 * S::kQueries, S::kTile);
    const Shared<float> weights = dynamic_shared<float>(4 * (S::kQueries + S::kTile), S::kWeights);
    const Shared<float> my_weights = weights + warp * kWarpRows * (S::kKeys + 4);
    load_rows<S::kRows, S::kD, S::kThreads>(queries, p.n.D, p.q.quads, [&](int r) {
        return tile.first + r < p.n.rows() ? tile.query_row(p, tile.first + r) : nullptr;
    });
    const KeyRun run = tile.keys(p, tile.first + S::kRows);
    WarpRows<S> rows(tile);
    const bool has_rows = tile.first + warp * kWarpRows < p.n.rows();
    for (int n = run.low / S::kKeys;; ++n) {
        const auto load = [&](const Heads& from) {
            __syncthreads();
            load_rows<S::kKeys, S::kD, S::kThreads>(keys, p.n.D, from.quads, [&](int j) {
                const int key = n * S::kKeys + j;
                return run.has(key) ? from.row(tile.b(p), key, tile.g(p)) : nullptr;
            });
            __syncthreads();
        };
        if (n * S::kKeys < run.high) {
            load(p.k);
            if (has_rows) rows.weigh(p, tile, n, queries + warp * kWarpRows * S::kStride, keys, my_weights);
            load(p.v);
            if (has_rows) accumulate_rows<S::kKeys, S::kQuads, S::kStride>(rows.acc, my_weights, keys);
        }
        const bool last = (n + 1) * S::kKeys >= run.high;
        if (has_rows && (last || (n + 1) % (kPartKeys / S::kKeys) == 0)) rows.end_part(p, tile, last);
        if (last) break;
    }
}

template <class S>
Status start(const AttentionForward& p, const Stream& stream) {
    const int64_t blocks = ceil_div(p.n.rows(), S::kRows) * p.n.B * p.n.Hkv * p.parts;
    return launch("attention: f32", stream,
                  {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = S::kThreads, .shared_bytes = S::kBytes},
                  attention_tiles<S>, p);
}

using Narrow = Shape<64, 64, 8>;
using Middle = Shape<128, 64, 8>;
using Wide = Shape<256, 32, 4>;

}  // namespace

int attention_f32_rows(int D) {
    return D <= 128 ? Narrow::kRows : Wide::kRows;
}

Status attention_f32(const AttentionForward& p, const Stream& stream) {
    if (p.n.D <= 64) return start<Narrow>(p, stream);
    if (p.n.D <= 128) return start<Middle>(p, stream);
    return start<Wide>(p, stream);
}

}  // namespace noema::cuda
