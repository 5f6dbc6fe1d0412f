// maf_features and its backward: a block owns some scalars' E features and a chunk of rows; a thread owns one feature, keeps its
// weights in registers and goes from row to row, as many rows at once as the block has threads for. Each thread computes its
// scalar's elu itself: some 15 instructions beside the 50 of gelu, against a barrier per row to have them from another.
#include "noema/ops/maf.h"

#include "common/column_sums.h"
#include "cuda.h"
#include "maf.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;
static_assert(kMostMafFeatures <= kThreads);

/// How blocks share an [R, (c-1) E] matrix.
struct Tiles {
    RowChunks chunks;
    int scalars, E;           // c - 1
    int tile_scalars, tiles;  // scalars of a block; blocks side by side
    int rows_at_once;

    static Tiles of(int64_t R, int64_t scalars, int64_t E) {
        const int64_t most = kThreads / E, mine = most < scalars ? most : scalars;
        return {RowChunks::of(R, R),
                static_cast<int>(scalars),
                static_cast<int>(E),
                static_cast<int>(mine),
                static_cast<int>(ceil_div(scalars, mine)),
                static_cast<int>(kThreads / (mine * E))};
    }
    Grid grid() const { return {.blocks = dim3(static_cast<unsigned>(chunks.count() * tiles)), .threads = kThreads}; }
};

/// This thread's feature, and which of the block's rows at once is its.
struct Mine {
    int64_t chunk;
    int first_scalar;     // the tile's
    int row, in_tile;     // in_tile: feature
    int scalar, feature;  // feature: of all (c-1) E
    bool active;

    __device__ explicit Mine(const Tiles& t) {
        const int width = t.tile_scalars * t.E, thread = static_cast<int>(threadIdx.x);
        const uint32_t tiles = static_cast<uint32_t>(t.tiles);
        chunk = blockIdx.x / tiles;
        first_scalar = static_cast<int>(blockIdx.x % tiles) * t.tile_scalars;
        row = thread / width;
        in_tile = thread - row * width;
        scalar = first_scalar + in_tile / t.E;
        feature = first_scalar * t.E + in_tile;
        active = row < t.rows_at_once && scalar < t.scalars;
    }
};

struct Forward {
    const float *x, *weight, *bias;
    float* y;
    int64_t x_stride, y_stride;
    Tiles tiles;
};

__global__ void __launch_bounds__(kThreads) maf_tiles(Forward p) {
    const Mine me(p.tiles);
    if (!me.active) return;
    const MafWeights w = weights_of(p.weight, p.bias, me.feature);
    const int64_t last = p.tiles.chunks.last(me.chunk);
#pragma unroll 2
    for (int64_t row = p.tiles.chunks.first(me.chunk) + me.row; row < last; row += p.tiles.rows_at_once) {
        const float x = p.x[row * p.x_stride + me.scalar];
        p.y[row * p.y_stride + me.feature] = maf_feature(w, x);
    }
}

struct Backward {
    const float *x, *weight, *bias, *d_y;
    float *d_x, *d_weight, *d_bias;  // the last two: a row of sums per chunk
    int64_t x_stride, d_y_stride, d_x_stride;
    Tiles tiles;
};

/// Adds a thread's share of d_x to that of its scalar's other features: `shares` holds one round of rows.
__device__ __forceinline__ void add_shares(const Backward& p, const Mine& me, int64_t round, Shared<float> shares) {
    const Tiles& t = p.tiles;
    const int thread = static_cast<int>(threadIdx.x), row_in_round = thread / t.tile_scalars,
              in_tile = thread - row_in_round * t.tile_scalars, scalar = me.first_scalar + in_tile;
    const int64_t row = round + row_in_round;
    if (row_in_round >= t.rows_at_once || scalar >= t.scalars || row >= t.chunks.last(me.chunk)) return;
    const int first = (row_in_round * t.tile_scalars + in_tile) * t.E;
    float sum = 0;
    for (int e = 0; e < t.E; ++e) sum += shares[first + e];
    p.d_x[row * p.d_x_stride + scalar] += sum;
}

__global__ void __launch_bounds__(kThreads) maf_backward_tiles(Backward p) {
    // Two rounds' shares: one barrier stands between writing and reading, the next before what was read is overwritten.
    SHARED_ARRAY(float, shares, 2 * kThreads);
    SHARED_ARRAY(float4, totals, kThreads);
    const Mine me(p.tiles);
    const int thread = static_cast<int>(threadIdx.x);
    const MafWeights w = me.active ? weights_of(p.weight, p.bias, me.feature) : MafWeights{};
    const int64_t last = p.tiles.chunks.last(me.chunk);
    float4 total = make_float4(0, 0, 0, 0);
    int buffer = 0;
    for (int64_t round = p.tiles.chunks.first(me.chunk); round < last; round += p.tiles.rows_at_once) {
        const int64_t row = round + me.row;
        if (me.active && row < last) {
            const float x = p.x[row * p.x_stride + me.scalar], d_y = p.d_y[row * p.d_y_stride + me.feature];
            const Elus e = elus(x);
            const float g = d_y * gelu_erf_slope(maf_inner(w, x, e));
            total =
                make_float4(fmaf(g, x, total.x), fmaf(g, e.rising, total.y), fmaf(g, e.falling, total.z), total.w + g);
            shares[buffer + thread] = g * fmaf(w.rising, e.rising_slope, fmaf(w.falling, e.falling_slope, w.x));
        }
        __syncthreads();
        add_shares(p, me, round, shares + buffer);
        buffer ^= kThreads;
    }
    totals[thread] = total;
    __syncthreads();
    if (me.row != 0 || !me.active) return;
    for (int i = 1; i < p.tiles.rows_at_once; ++i) {
        const float4 v = totals[i * p.tiles.tile_scalars * p.tiles.E + thread];
        total = make_float4(total.x + v.x, total.y + v.y, total.z + v.z, total.w + v.w);
    }
    const int64_t at = me.chunk * p.tiles.scalars * p.tiles.E + me.feature;
    p.d_weight[3 * at] = total.x;
    p.d_weight[3 * at + 1] = total.y;
    p.d_weight[3 * at + 2] = total.z;
    p.d_bias[at] = total.w;
}

Status run(const MafFeatures& p, const Stream& stream, Workspace) {
    if (p.y.size() == 0) return {};
    const Forward f{p.x.as<float>(),
                    p.weight.as<float>(),
                    p.bias.as<float>(),
                    p.y.as<float>(),
                    p.x.stride[0],
                    p.y.stride[0],
                    Tiles::of(p.x.shape[0], p.bias.shape[0], p.bias.shape[1])};
    return launch("maf_features", stream, f.tiles.grid(), maf_tiles, f);
}

size_t backward_workspace(const MafFeaturesBackward& p, const Stream&) {
    const int64_t R = p.x.shape[0], n = R > 0 ? RowChunks::of(R, R).count() * p.d_y.shape[1] : 0;
    return workspace_bytes<float>(3 * n) + workspace_bytes<float>(n);
}

Status run_backward(const MafFeaturesBackward& p, const Stream& stream, Workspace w) {
    if (p.d_y.size() == 0) return {};
    const int64_t N = p.d_y.shape[1];
    const Tiles tiles = Tiles::of(p.x.shape[0], p.bias.shape[0], p.bias.shape[1]);
    const int64_t chunks = tiles.chunks.count();
    float *d_weight = w.take<float>(3 * chunks * N), *d_bias = w.take<float>(chunks * N);
    const Backward b{p.x.as<float>(),
                     p.weight.as<float>(),
                     p.bias.as<float>(),
                     p.d_y.as<float>(),
                     p.d_x.as<float>(),
                     d_weight,
                     d_bias,
                     p.x.stride[0],
                     p.d_y.stride[0],
                     p.d_x.stride[0],
                     tiles};
    NOEMA_TRY(launch("maf_features_backward", stream, tiles.grid(), maf_backward_tiles, b));
    NOEMA_TRY(column_sums({d_weight, 1, chunks, 3 * N, p.d_weight.as<float>(), 3 * N, true}, stream));
    return column_sums({d_bias, 1, chunks, N, p.d_bias.as<float>(), N, true}, stream);
}

}  // namespace

Op<MafFeatures> maf_features_entry() {
    return {run, nullptr};
}
Op<MafFeaturesBackward> maf_features_backward_entry() {
    return {run_backward, backward_workspace};
}

}  // namespace noema::cuda
