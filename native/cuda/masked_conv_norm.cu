// masked_conv_norm: a block per sequence counts by a running sum; a warp (a block, where rows are long) per row forms its
// mass; then every block adds up its sequence's normaliser for itself, in double and in one order, and scales rows.
#include "noema/ops/masked_conv_norm.h"

#include "common/launch.h"
#include "common/reduce.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kCountThreads = 1024, kCountWarps = kCountThreads / 32;
constexpr int kThreads = 256, kWarps = kThreads / 32;
// Rows of at least so many values are a block's.
constexpr int kLongRow = 1024;

struct Values {
    const float *p, *lse;
    float *out, *normaliser;
    const int32_t* row_ids;
    int64_t p_stride[2], out_stride[2];
    int rows, K;
    bool whole, by_mass;  // scope batch; numerator masked_mass
};

struct Positions {
    const uint8_t* masked;
    float *count, *s, *mass;
    int* unmasked;  // [B,T] how many up to and with a position
    int64_t masked_stride, count_stride, s_stride;
    int B, T, reach;
    float multiplier;
    ConvShape shape;
};

__device__ __forceinline__ float shaped(ConvShape shape, float x) {
    if (shape == ConvShape::tanh) return tanhf(x);
    if (shape == ConvShape::linear) return fminf(x, 1.0f);
    return -expm1f(-x);
}

/// unmasked[i] for all positions of a sequence, kCountThreads at a time.
__device__ __forceinline__ void add_up(const uint8_t* masked, int T, int* unmasked, Shared<int> warp_counts) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int before = 0;
    for (int first = 0; first < T; first += kCountThreads) {
        const int i = first + static_cast<int>(threadIdx.x);
        const unsigned votes = __ballot_sync(kAllLanes, i < T && masked[i] == 0);
        if (lane == 0) warp_counts[warp] = __popc(votes);
        __syncthreads();
        int mine = before + __popc(votes & (0xFFFFFFFFu >> (31 - lane)));
        for (int w = 0; w < kCountWarps; ++w) {
            const int n = warp_counts[w];
            if (w < warp) mine += n;
            before += n;
        }
        if (i < T) unmasked[i] = mine;
        __syncthreads();
    }
}

__global__ void __launch_bounds__(kCountThreads) count_unmasked(Positions p) {
    SHARED_ARRAY(int, warp_counts, kCountWarps);
    const int64_t b = blockIdx.x;
    int* unmasked = p.unmasked + b * p.T;
    add_up(p.masked + b * p.masked_stride, p.T, unmasked, warp_counts);
    for (int i = threadIdx.x; i < p.T; i += kCountThreads) {
        const int low = i - p.reach, high = i < p.T - p.reach ? i + p.reach : p.T - 1;
        const float count = static_cast<float>(unmasked[high] - (low > 0 ? unmasked[low - 1] : 0));
        if (p.count) p.count[b * p.count_stride + i] = count;
        p.s[b * p.s_stride + i] = shaped(p.shape, p.multiplier * count);
        if (p.mass) p.mass[b * p.T + i] = 0.0f;
    }
}

/// A row of p and its position.
struct Row {
    int b, i;
    const float* p;
    float* out;
    float lse;
};

__device__ __forceinline__ Row row_of(const Positions& at, const Values& v, int row) {
    const int position = v.row_ids ? v.row_ids[row] : row;
    Row r{position / at.T, position % at.T, v.p, v.out, v.lse ? v.lse[row] : 0.0f};
    r.p += v.row_ids ? row * v.p_stride[0] : r.b * v.p_stride[0] + r.i * v.p_stride[1];
    r.out += v.row_ids ? row * v.out_stride[0] : r.b * v.out_stride[0] + r.i * v.out_stride[1];
    return r;
}

__device__ __forceinline__ float value_of(const Values& v, const Row& row, int j) {
    return v.lse ? expf(row.p[j] - row.lse) : row.p[j];
}

template <bool kLong>
__global__ void __launch_bounds__(kThreads) add_masses(Positions at, Values v) {
    constexpr int kLanes = kLong ? kThreads : 32;
    SHARED_ARRAY(float, scratch, kWarps);
    const int row = blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
    if (row >= v.rows) return;  // a warp or a block together
    const Row r = row_of(at, v, row);
    if (!at.masked[r.b * at.masked_stride + r.i]) return;
    float sum = 0;
    for (int j = lane; j < v.K; j += kLanes) sum += value_of(v, r, j);
    sum = kLong ? block_reduce(sum, Sum{}, scratch) : warp_reduce(sum, Sum{});
    if (lane == 0) at.mass[static_cast<int64_t>(r.b) * at.T + r.i] = sum;
}

/// The normaliser of the sequences [first, last): the same for every block that asks.
__device__ __forceinline__ float normaliser_of(const Positions& at, bool by_mass, int first, int last,
                                               Shared<double> scratch) {
    double numerator = 0, denominator = 0;
    for (int64_t b = first; b < last; ++b)
        for (int i = threadIdx.x; i < at.T; i += kThreads) {
            if (!at.masked[b * at.masked_stride + i]) continue;
            const double mass = at.mass[b * at.T + i];
            numerator += by_mass ? mass : 1.0;
            denominator += at.s[b * at.s_stride + i] * mass;
        }
    numerator = block_reduce(numerator, Sum{}, scratch);
    denominator = block_reduce(denominator, Sum{}, scratch);
    // A division of doubles would cost a call and a stack; this one adds two roundings.
    return static_cast<float>(numerator) / static_cast<float>(denominator + 1e-12);
}

template <bool kLong>
__global__ void __launch_bounds__(kThreads, 4) normalise(Positions at, Values v) {
    constexpr int kLanes = kLong ? kThreads : 32, kRows = kThreads / kLanes;
    SHARED_ARRAY(double, scratch, kWarps);
    const int b = blockIdx.x, lane = threadIdx.x % kLanes;
    const float S = normaliser_of(at, v.by_mass, v.whole ? 0 : b, v.whole ? at.B : b + 1, scratch);
    if (v.normaliser && blockIdx.y == 0 && threadIdx.x == 0) v.normaliser[b] = S;
    // Given rows may be of any sequence; without them a sequence's stand together.
    const bool together = !v.row_ids && !v.whole;
    const int low = together ? b * at.T : 0, high = together ? low + at.T : v.rows;
    for (int row = low + blockIdx.y * kRows + threadIdx.x / kLanes; row < high; row += gridDim.y * kRows) {
        const Row r = row_of(at, v, row);
        if (!v.whole && r.b != b) continue;
        const bool masked = at.masked[r.b * at.masked_stride + r.i];
        const float factor = at.s[r.b * at.s_stride + r.i] * S;
        for (int j = lane; j < v.K; j += kLanes) r.out[j] = masked ? value_of(v, r, j) * factor : 0.0f;
    }
}

template <class T>
T* data_of(const View& v) {
    return v ? v.as<T>() : nullptr;
}

Values values_of(const MaskedConvNorm& p) {
    const int last = p.p.rank - 1;
    return {.p = p.p.as<float>(),
            .lse = data_of<float>(p.lse),
            .out = p.p_conv.as<float>(),
            .normaliser = data_of<float>(p.normaliser),
            .row_ids = data_of<int32_t>(p.rows),
            .p_stride = {p.p.stride[0], p.p.stride[1]},
            .out_stride = {p.p_conv.stride[0], p.p_conv.stride[1]},
            .rows = static_cast<int>(p.rows ? p.rows.shape[0] : p.masked.size()),
            .K = static_cast<int>(p.p.shape[last]),
            .whole = p.scope == ConvScope::batch,
            .by_mass = p.numerator == ConvNumerator::masked_mass};
}

size_t workspace_size(const MaskedConvNorm& p, const Stream&) {
    const int64_t n = p.masked.size();
    return workspace_bytes<int>(n) + (p.p ? workspace_bytes<float>(n) : 0);
}

Status normalise_values(const Positions& at, const Values& v, const Stream& stream) {
    const bool longer = v.K >= kLongRow;
    const int64_t rows_per_block = longer ? 1 : kWarps;
    NOEMA_TRY(launch("masked_conv_norm: masses", stream,
                     {.blocks = dim3(static_cast<unsigned>(ceil_div(v.rows, rows_per_block))), .threads = kThreads},
                     longer ? add_masses<true> : add_masses<false>, at, v));
    // Every block adds up the normaliser: a few times as many as there are multiprocessors.
    const int sequences = v.whole ? 1 : at.B, rows = v.whole || v.row_ids ? v.rows : at.T;
    const int64_t wanted = ceil_div(4 * queue_of(stream).device.multiprocessors, sequences > 0 ? sequences : 1);
    const int64_t useful = ceil_div(rows, rows_per_block), share = useful < wanted ? useful : wanted;
    return launch("masked_conv_norm: scale", stream,
                  {.blocks = dim3(static_cast<unsigned>(sequences), static_cast<unsigned>(share > 0 ? share : 1)),
                   .threads = kThreads},
                  longer ? normalise<true> : normalise<false>, at, v);
}

Status run(const MaskedConvNorm& p, const Stream& stream, Workspace workspace) {
    const int64_t B = p.masked.shape[0], T = p.masked.shape[1], reach = p.kernel / 2 < T ? p.kernel / 2 : T;
    const Positions at{.masked = p.masked.as<uint8_t>(),
                       .count = data_of<float>(p.count),
                       .s = p.s.as<float>(),
                       .mass = p.p ? workspace.take<float>(B * T) : nullptr,
                       .unmasked = workspace.take<int>(B * T),
                       .masked_stride = p.masked.stride[0],
                       .count_stride = p.count ? p.count.stride[0] : 0,
                       .s_stride = p.s.stride[0],
                       .B = static_cast<int>(B),
                       .T = static_cast<int>(T),
                       .reach = static_cast<int>(reach),
                       .multiplier = p.multiplier,
                       .shape = p.shape};
    NOEMA_TRY(launch("masked_conv_norm: counts", stream,
                     {.blocks = dim3(static_cast<unsigned>(B)), .threads = kCountThreads}, count_unmasked, at));
    return p.p ? normalise_values(at, values_of(p), stream) : Status{};
}

}  // namespace

Op<MaskedConvNorm> masked_conv_norm_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cuda
