// Attention on tensor cores (mma_16x8x16). A block takes a tile of rows through the tiles of keys; a warp owns 16 or 32
// rows, keeps their scores, weights and values in registers and reads keys and values from shared memory. While one of
// the two is used the other one travels:
//
//   keys n arrive | barrier | values n depart, scores | values n arrive | barrier | keys n + 1 depart, softmax, values
//
// Staged: keys and values come as f32 through registers, a whole turn ahead. For few rows, as in decoding, where each
// key
//   is read once or twice.
// Packed: bf16 copies (attention_pack.cu) come by asynchronous copies. For many rows: 128 rows do 64 FLOP per byte of
//   f32 keys, which is more than the L2 cache can feed, and 128 per byte of bf16.
//
// Shared memory (rows of D + 8): D 64: 37 KB, D 128: 70 KB, D 256: 99 KB, all that compute capability 8.9 has.
#include "attention_rows.h"
#include "attention_tiles.h"

namespace noema::cuda {

namespace {

constexpr int kTilesPerPart = kPartKeys / kTileKeys;

template <int kWidth, int kAtomsOf16, int kWarps, bool kIsPacked>
struct Shape {
    static constexpr int kD = kWidth, kAtoms = kAtomsOf16, kThreads = 32 * kWarps;
    static constexpr bool kPacked = kIsPacked;
    static constexpr int kRows = 16 * kAtoms * kWarps, kStride = kD + 8;
    static constexpr int kTile = kTileKeys * kStride;  // values of a tile of keys
    static constexpr int kBytes = 2 * (kRows * kStride + 2 * kTile);
    /// Queries stay in registers where there is room.
    static constexpr bool kHoldQueries = kPacked ? kD <= 128 / kAtoms / kAtoms : kD <= 64;
};

/// The rows of a thread's fragments.
template <class S>
struct Fragments {
    int first, lane;
    Shared<bf16> queries;
    __device__ __forceinline__ Fragments(const RowTile& tile, Shared<bf16> queries)
        : first(tile.first + static_cast<int>(threadIdx.x) / 32 * 16 * S::kAtoms),
          lane(static_cast<int>(threadIdx.x) % 32),
          queries(queries + (first - tile.first + lane / 4) * S::kStride) {}
    __device__ __forceinline__ int row(int r) const { return first + 8 * r + lane / 4; }
    __device__ __forceinline__ int column(int i) const { return 8 * i + 2 * (lane % 4); }
    __device__ __forceinline__ bool first_column() const { return lane % 4 == 0; }
    // Both lie in what the tile of queries leaves free at the end of its rows.
    __device__ __forceinline__ decltype(auto) total(int r) const {
        return (queries + (8 * r * S::kStride + S::kD)).template as<float2>()[0];
    }
    __device__ __forceinline__ KeyRun run(int r) const { return run_at(8 * r); }
    /// Keys that all rows of the warp see.
    __device__ __forceinline__ KeyRun run_of_all() const {
        return {run_at(16 * S::kAtoms - 1 - lane / 4).low, run_at(-(lane / 4)).high};
    }

 private:
    __device__ __forceinline__ KeyRun run_at(int row) const {
        const int2 run = (queries + (row * S::kStride + S::kD + 4)).template as<int2>()[0];
        return {run.x, run.y};
    }
};

/// Where a block's keys come from.
struct KeySource {
    const AttentionForward& p;
    const RowTile& tile;
    KeyRun run;
    int begin, end;  // tiles

    __device__ __forceinline__ KeySource(const AttentionForward& p, const RowTile& tile, KeyRun run)
        : p(p),
          tile(tile),
          run(run),
          begin(run.low / kTileKeys),
          end(run.low < run.high ? (run.high - 1) / kTileKeys + 1 : begin) {}
};

/// A tile of f32 on its way through registers.
template <class S>
struct Staged {
    static constexpr int kQuads = kTileKeys * S::kD / 4 / S::kThreads;
    float4 keys[kQuads], values[kQuads];

    static constexpr int kApart = S::kThreads / (S::kD / 4);  // rows from one of a thread's quads to its next

    __device__ __forceinline__ static int row() { return static_cast<int>(threadIdx.x) / (S::kD / 4); }
    __device__ __forceinline__ static int column() { return static_cast<int>(threadIdx.x) % (S::kD / 4) * 4; }
    __device__ __forceinline__ static void request(float4 (&to)[kQuads], const KeySource& s, const Heads& from, int n) {
        const int key = n * kTileKeys + row();
        const float* at = from.row(s.tile.b(s.p), key, s.tile.g(s.p));
#pragma unroll
        for (int i = 0; i < kQuads; ++i, at += kApart * from.position)
            to[i] = load_quad(at, column(), s.p.n.D, from.quads, n < s.end && s.run.has(key + i * kApart));
    }
    __device__ __forceinline__ static void deliver(const float4 (&from)[kQuads], Shared<bf16> tile) {
        const Shared<uint2> to = (tile + (row() * S::kStride + column())).template as<uint2>();
#pragma unroll
        for (int i = 0; i < kQuads; ++i)
            to[i * kApart * S::kStride / 4] =
                make_uint2(pack_bf16(from[i].x, from[i].y), pack_bf16(from[i].z, from[i].w));
    }

    __device__ __forceinline__ void start(const KeySource& s, Shared<bf16>) {
        request(keys, s, s.p.k, s.begin);
        request(values, s, s.p.v, s.begin);
    }
    __device__ __forceinline__ void keys_arrive(const KeySource& s, int n, Shared<bf16> to) {
        deliver(keys, to);
        request(keys, s, s.p.k, n + 1);
    }
    __device__ __forceinline__ void values_depart(const KeySource&, int, Shared<bf16>) {}
    __device__ __forceinline__ void values_arrive(const KeySource& s, int n, Shared<bf16> to) {
        deliver(values, to);
        request(values, s, s.p.v, n + 1);
    }
    __device__ __forceinline__ void keys_depart(const KeySource&, int, Shared<bf16>) {}
};

template <class S>
struct Copied {
    __device__ __forceinline__ static void depart(const KeySource& s, const Packed& from, int n, Shared<bf16> to) {
        if (n < s.end) copy_run<S::kThreads>(to, from.tile(s.tile.head, n * kTileKeys), S::kTile);
        copy_async_commit();
    }
    __device__ __forceinline__ void start(const KeySource& s, Shared<bf16> keys) { depart(s, s.p.keys, s.begin, keys); }
    __device__ __forceinline__ void keys_arrive(const KeySource&, int, Shared<bf16>) { copy_async_wait<0>(); }
    __device__ __forceinline__ void values_depart(const KeySource& s, int n, Shared<bf16> to) {
        depart(s, s.p.values, n, to);
    }
    __device__ __forceinline__ void values_arrive(const KeySource&, int, Shared<bf16>) { copy_async_wait<0>(); }
    __device__ __forceinline__ void keys_depart(const KeySource& s, int n, Shared<bf16> to) {
        depart(s, s.p.keys, n, to);
    }
};

template <bool kPacked, class S>
struct SourceOf {
    using Type = Copied<S>;
};
template <class S>
struct SourceOf<false, S> {
    using Type = Staged<S>;
};

/// Queries as left operands.
template <class S>
struct Queries {
    uint32_t held[S::kAtoms][S::kHoldQueries ? S::kD / 16 : 1][4];
    Shared<bf16> mine;

    __device__ __forceinline__ void store(const AttentionForward& p, const RowTile& tile, Shared<bf16> to) {
        constexpr int kPerRow = S::kD / 4;
        for (int i = static_cast<int>(threadIdx.x); i < S::kRows * kPerRow; i += S::kThreads) {
            const int r = i / kPerRow, column = i % kPerRow * 4;
            const bool inside = tile.first + r < p.n.rows();
            const float4 x =
                load_quad(inside ? tile.query_row(p, tile.first + r) : nullptr, column, p.n.D, p.q.quads, inside);
            (to + (r * S::kStride + column)).template as<uint2>()[0] =
                make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
        }
        for (int r = static_cast<int>(threadIdx.x); r < S::kRows; r += S::kThreads) {
            const KeyRun run = tile.run(p, tile.first + r);
            (to + (r * S::kStride + S::kD + 4)).template as<int2>()[0] = make_int2(run.low, run.high);
        }
        __syncthreads();
        const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
        mine = to + (warp * 16 * S::kAtoms * S::kStride + left_lane(lane, S::kStride));
        if constexpr (S::kHoldQueries) {
#pragma unroll
            for (int atom = 0; atom < S::kAtoms; ++atom)
#pragma unroll
                for (int k = 0; k < S::kD / 16; ++k)
                    load_matrices_x4(held[atom][k], mine + (16 * atom * S::kStride + 16 * k));
        }
    }
    __device__ __forceinline__ void get(uint32_t (&a)[4], int atom, int k) const {
        if constexpr (S::kHoldQueries) {
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = held[atom][k][i];
        } else {
            load_matrices_x4(a, mine + (16 * atom * S::kStride + 16 * k));
        }
    }
};

/// The work of a warp on its rows.
template <class S>
struct WarpRows {
    static constexpr int kRowsOfThread = 2 * S::kAtoms;
    Fragments<S> own;
    PartialRows<kRowsOfThread, S::kD / 8, Fragments<S>> rows;
    float acc[S::kAtoms][S::kD / 8][4] = {};
    float scores[S::kAtoms][kTileKeys / 8][4];

    __device__ __forceinline__ WarpRows(const RowTile& tile, Shared<bf16> queries) : own(tile, queries) {}

    __device__ __forceinline__ void score(const Queries<S>& queries, Shared<bf16> keys) {
        const Shared<bf16> mine = keys + right_lane(own.lane, S::kStride);
#pragma unroll
        for (int atom = 0; atom < S::kAtoms; ++atom)
#pragma unroll
            for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[atom][n][i] = 0;
#pragma unroll
        for (int k = 0; k < S::kD / 16; ++k) {
            uint32_t a[S::kAtoms][4];
#pragma unroll
            for (int atom = 0; atom < S::kAtoms; ++atom) queries.get(a[atom], atom, k);
#pragma unroll
            for (int n = 0; n < kTileKeys / 16; ++n) {
                uint32_t r[4];
                load_matrices_x4(r, mine + (16 * n * S::kStride + 16 * k));
#pragma unroll
                for (int atom = 0; atom < S::kAtoms; ++atom)
                    multiply_pair(scores[atom][2 * n], scores[atom][2 * n + 1], a[atom], r);
            }
        }
    }

    /// Only tiles at the edge of what is visible need this.
    __device__ __forceinline__ void hide(int n) {
        const int first = n * kTileKeys;
        if (own.run_of_all().covers(first, first + kTileKeys)) return;
#pragma unroll
        for (int r = 0; r < kRowsOfThread; ++r) {
            const KeyRun seen = own.run(r);
#pragma unroll
            for (int i = 0; i < kTileKeys / 8; ++i)
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    if (!seen.has(first + own.column(i) + j)) scores[r / 2][i][r % 2 * 2 + j] = -INFINITY;
        }
    }

    /// Scores become weights.
    __device__ __forceinline__ void softmax(float scale2) {
#pragma unroll
        for (int r = 0; r < kRowsOfThread; ++r) {
            float(&s)[kTileKeys / 8][4] = scores[r / 2];
            const int at = r % 2 * 2;
            float most = fmaxf(s[0][at], s[0][at + 1]);
#pragma unroll
            for (int i = 1; i < kTileKeys / 8; ++i) most = fmaxf(most, fmaxf(s[i][at], s[i][at + 1]));
            RowSum& sum = rows.part[r];
            const float factor = sum.raise(warp_max_of_four(most), scale2), origin = sum.origin();
            float tile_sum = 0;
            // Once the largest score is found, most tiles leave it alone; a factor of 1 changes no bit.
            if (__any_sync(kAllLanes, factor != 1.0f)) {
#pragma unroll
                for (int i = 0; i < S::kD / 8; ++i) {
                    acc[r / 2][i][at] *= factor;
                    acc[r / 2][i][at + 1] *= factor;
                }
            }
#pragma unroll
            for (int i = 0; i < kTileKeys / 8; ++i) {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const float weight = fast_exp2((s[i][at + j] - origin) * scale2);
                    s[i][at + j] = weight;
                    tile_sum += weight;
                }
            }
            sum.sum = fmaf(sum.sum, factor, tile_sum);
        }
    }

    __device__ __forceinline__ static float warp_max_of_four(float x) {
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
        return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
    }

    __device__ __forceinline__ void add_values(Shared<bf16> values) {
        const Shared<bf16> mine = values + left_lane(own.lane, S::kStride);
#pragma unroll
        for (int k = 0; k < kTileKeys / 16; ++k) {
            uint32_t a[S::kAtoms][4];
#pragma unroll
            for (int atom = 0; atom < S::kAtoms; ++atom) as_left(a[atom], scores[atom][2 * k], scores[atom][2 * k + 1]);
#pragma unroll
            for (int n = 0; n < S::kD / 16; ++n) {
                uint32_t r[4];
                load_matrices_x4_transposed(r, mine + (16 * k * S::kStride + 16 * n));
#pragma unroll
                for (int atom = 0; atom < S::kAtoms; ++atom)
                    multiply_pair(acc[atom][2 * n], acc[atom][2 * n + 1], a[atom], r);
            }
        }
    }

    __device__ __forceinline__ void weigh(const AttentionForward& p, int n, Shared<bf16> values) {
        hide(n);
        softmax(p.scale2);
        add_values(values);
    }

    __device__ __forceinline__ void end_part(const AttentionForward& p, const RowTile& tile, bool last) {
#pragma unroll
        for (int r = 0; r < kRowsOfThread; ++r) rows.part[r].sum = warp_reduce(rows.part[r].sum, Sum{}, 4);
        rows.end_part(p, tile, own, last, [&](int r, int i) {
            return make_float2(acc[r / 2][i][r % 2 * 2], acc[r / 2][i][r % 2 * 2 + 1]);
        });
#pragma unroll
        for (int atom = 0; atom < S::kAtoms; ++atom)
#pragma unroll
            for (int i = 0; i < S::kD / 8; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) acc[atom][i][j] = 0;
    }
};

// 32 rows per warp at D 128 are 128 sums and 64 scores in registers. The compiler finds room for the rest on capability 9.0 alone;
// elsewhere it would spill, so there the form is not made.
constexpr int kWideCapability = 90;
template <class S>
constexpr bool kIsWide = S::kD == 128 && S::kAtoms == 2;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <class S>
constexpr bool kIsMade = !kIsWide<S>;
#else
template <class S>
constexpr bool kIsMade = true;
#endif

template <class S>
__device__ __forceinline__ void walk_tiles(const AttentionForward& p) {
    const RowTile tile(p, S::kRows);
    const Shared<bf16> query_tile = dynamic_shared<bf16>(0, S::kRows * S::kStride);
    const Shared<bf16> keys = dynamic_shared<bf16>(2 * S::kRows * S::kStride, S::kTile);
    const Shared<bf16> values = dynamic_shared<bf16>(2 * (S::kRows * S::kStride + S::kTile), S::kTile);
    const KeySource source(p, tile, tile.keys(p, tile.first + S::kRows));
    typename SourceOf<S::kPacked, S>::Type stream;
    stream.start(source, keys);
    Queries<S> queries;
    queries.store(p, tile, query_tile);
    WarpRows<S> warp(tile, query_tile);
    const bool has_rows = S::kAtoms == 2 || warp.own.first < p.n.rows();  // of the warp; for 32 every register counts
    for (int n = source.begin;; ++n) {
        if (n < source.end) {
            stream.keys_arrive(source, n, keys);
            __syncthreads();
            stream.values_depart(source, n, values);
            if (has_rows) warp.score(queries, keys);
            stream.values_arrive(source, n, values);
            __syncthreads();
            stream.keys_depart(source, n + 1, keys);
            if (has_rows) warp.weigh(p, n, values);
        }
        const bool last = n + 1 >= source.end;
        if (has_rows && (last || (n + 1) % kTilesPerPart == 0)) warp.end_part(p, tile, last);
        if (last) break;
    }
    copy_async_wait<0>();
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) attention_tiles(AttentionForward p) {
    if constexpr (kIsMade<S>) walk_tiles<S>(p);
}

template <class S>
Status start(const AttentionForward& p, const Stream& stream) {
    const int64_t blocks = ceil_div(p.n.rows(), S::kRows) * p.n.B * p.n.Hkv * p.parts;
    return launch(S::kPacked ? "attention: bf16 packed" : "attention: bf16", stream,
                  {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = S::kThreads, .shared_bytes = S::kBytes},
                  attention_tiles<S>, p);
}

template <int kD>
Status start_width(const AttentionForward& p, const Stream& stream) {
    if (!p.keys.data) return start<Shape<kD, 1, 8, false>>(p, stream);
    const int64_t wide = ceil_div(p.n.rows(), 128) * p.n.B * p.n.Hkv * p.parts;
    const DeviceTraits& device = queue_of(stream).device;
    const bool made = !kIsWide<Shape<kD, 2, 4, true>> || device.capability >= kWideCapability;
    if (!made || wide < device.multiprocessors) return start<Shape<kD, 1, 4, true>>(p, stream);
    return start<Shape<kD, 2, 4, true>>(p, stream);
}

}  // namespace

Status attention_bf16(const AttentionForward& p, const Stream& stream) {
    switch (padded_width(p.n.D)) {
        case 32: return start_width<32>(p, stream);
        case 64: return start_width<64>(p, stream);
        case 128: return start_width<128>(p, stream);
        default: return start<Shape<256, 1, 4, true>>(p, stream);
    }
}

}  // namespace noema::cuda
