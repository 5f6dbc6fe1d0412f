// reorder and its backward: a thread per quad that is written.
#include "noema/ops/reorder.h"

#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Move {
    const float *from, *first;  // first: forward's, or null
    float* to;
    int64_t from_stride[2], to_stride[2];
    int64_t S;
    ChannelOrder order;  // how channels move from `from` to `to`
    bool reverse, backward, accumulate;
    int64_t late;  // positions by which y is behind x
    QuadGrid quads;

    /// The row that goes to [b,t] of `to`; null: nothing does.
    __device__ const float* source(int64_t b, int64_t t) const {
        const int64_t turned = reverse ? S - 1 - t : t;
        const int64_t s = backward || reverse ? turned + late : t - late;
        if (backward) return s < S ? from + b * from_stride[0] + s * from_stride[1] : nullptr;
        return t < late ? first : from + b * from_stride[0] + s * from_stride[1];
    }
};

__device__ __forceinline__ int64_t channel(ChannelOrder order, int64_t k, int64_t evens) {
    if (order == ChannelOrder::even_odd) return k < evens ? 2 * k : 2 * (k - evens) + 1;
    return (k & 1 ? evens : 0) + k / 2;
}

/// Elements [k, k + 4) of a row whose channels are moved.
template <bool kWhole>
__device__ __forceinline__ Quad moved_quad(const float* row, ChannelOrder order, int64_t k, int64_t c) {
    if (order == ChannelOrder::as_is) return load_quad<kWhole>(row, k, c);
    Quad q;
#pragma unroll
    for (int i = 0; i < 4; ++i) q.e[i] = kWhole || k + i < c ? row[channel(order, k + i, (c + 1) / 2)] : 0.0f;
    return q;
}

__global__ void __launch_bounds__(QuadGrid::kThreads) move_quads(Move p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t k) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t b = static_cast<int64_t>(static_cast<uint64_t>(row) / static_cast<uint64_t>(p.S)),
                      t = row - b * p.S, c = p.quads.C;
        float* to = p.to + b * p.to_stride[0] + t * p.to_stride[1];
        const float* from = p.source(b, t);
        if (!from && p.accumulate) return;
        const ChannelOrder order = from == p.first ? ChannelOrder::as_is : p.order;
        Quad q = from ? moved_quad<kWhole>(from, order, k, c) : filled(0);
        if (p.accumulate) q = map([](float a, float e) { return a + e; }, load_quad<kWhole>(to, k, c), q);
        store_quad<kWhole>(to, k, c, q);
    });
}

constexpr int kSumThreads = 64;

struct FirstRows {
    const float* d_y;
    float* to;
    int64_t stride, B, c;
};

// A thread per channel: a few hundred sequences, whose loads are under way eight at a time.
__global__ void __launch_bounds__(kSumThreads) add_first_rows(FirstRows p) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
    if (k >= p.c) return;
    float sum = 0;
#pragma unroll 8
    for (int64_t b = 0; b < p.B; ++b) sum += p.d_y[b * p.stride + k];
    p.to[k] += sum;
}

QuadGrid grid_of(const View& to, const View& from, const View& first) {
    const int64_t rows = to.shape[0] * to.shape[1], c = to.shape[2];
    return {rows * ceil_div(c, 4), ceil_div(c, 4), c, rows_aligned(to, from, first)};
}

ChannelOrder undone(ChannelOrder order) {
    switch (order) {
        case ChannelOrder::as_is: break;
        case ChannelOrder::even_odd: return ChannelOrder::interleave;
        case ChannelOrder::interleave: return ChannelOrder::even_odd;
    }
    return order;
}

Status run(const Reorder& p, const Stream& stream, Workspace) {
    const Move m{.from = p.x.as<float>(),
                 .first = p.first.as<float>(),
                 .to = p.y.as<float>(),
                 .from_stride = {p.x.stride[0], p.x.stride[1]},
                 .to_stride = {p.y.stride[0], p.y.stride[1]},
                 .S = p.y.shape[1],
                 .order = p.channels,
                 .reverse = p.reverse,
                 .backward = false,
                 .accumulate = false,
                 .late = p.first ? 1 : 0,
                 .quads = grid_of(p.y, p.x, p.first)};
    return launch("reorder", stream, m.quads.grid(), move_quads, m);
}

Status run_backward(const ReorderBackward& p, const Stream& stream, Workspace) {
    const int64_t B = p.d_x.shape[0], S = p.d_x.shape[1], c = p.d_x.shape[2];
    const Move m{.from = p.d_y.as<float>(),
                 .first = nullptr,
                 .to = p.d_x.as<float>(),
                 .from_stride = {p.d_y.stride[0], p.d_y.stride[1]},
                 .to_stride = {p.d_x.stride[0], p.d_x.stride[1]},
                 .S = S,
                 .order = undone(p.channels),
                 .reverse = p.reverse,
                 .backward = true,
                 .accumulate = p.accumulate_x,
                 .late = p.d_first ? 1 : 0,
                 .quads = grid_of(p.d_x, p.d_y, {})};
    NOEMA_TRY(launch("reorder_backward", stream, m.quads.grid(), move_quads, m));
    if (!p.d_first || S == 0) return {};
    const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(c, kSumThreads))), .threads = kSumThreads};
    return launch("reorder_backward first", stream, grid, add_first_rows,
                  FirstRows{p.d_y.as<float>(), p.d_first.as<float>(), p.d_y.stride[0], B, c});
}

}  // namespace

Op<Reorder> reorder_entry() {
    return {run, nullptr};
}
Op<ReorderBackward> reorder_backward_entry() {
    return {run_backward, nullptr};
}

}  // namespace noema::cuda
