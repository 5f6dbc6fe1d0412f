// reorder and its backward: a thread per quad that is written.
#include "noema/ops/reorder.h"

#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

template <class From, class To>
struct Move {
    const From* from;
    const float* first;  // forward's, or null
    To* to;
    int64_t from_stride[2], to_stride[2];
    int64_t S;
    ChannelOrder order;  // how channels move from `from` to `to`
    bool reverse, backward, accumulate;
    int64_t late;  // positions by which y is behind x
    QuadGrid quads;

    /// The row that goes to [b,t] of `to`; null: forward's first, or in backward nothing.
    __device__ const From* source(int64_t b, int64_t t) const {
        const int64_t turned = reverse ? S - 1 - t : t;
        const int64_t s = backward || reverse ? turned + late : t - late;
        return (backward ? s < S : t >= late) ? from + b * from_stride[0] + s * from_stride[1] : nullptr;
    }
};

__device__ __forceinline__ int64_t channel(ChannelOrder order, int64_t k, int64_t evens) {
    if (order == ChannelOrder::even_odd) return k < evens ? 2 * k : 2 * (k - evens) + 1;
    return (k & 1 ? evens : 0) + k / 2;
}

/// Elements [k, k + 4) of a row whose channels are moved.
template <bool kWhole, class T>
__device__ __forceinline__ QuadOf<T> moved_quad(const T* row, ChannelOrder order, int64_t k, int64_t c) {
    if (order == ChannelOrder::as_is) return load_quad<kWhole>(row, k, c);
    QuadOf<T> q;
#pragma unroll
    for (int i = 0; i < 4; ++i) q.e[i] = kWhole || k + i < c ? row[channel(order, k + i, (c + 1) / 2)] : T{0};
    return q;
}

template <class To, class From>
__device__ __forceinline__ QuadOf<To> converted(const QuadOf<From>& q) {
    return map([](From e) { return static_cast<To>(e); }, q);
}

template <class From, class To>
__global__ void __launch_bounds__(QuadGrid::kThreads) move_quads(Move<From, To> p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t k) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t b = static_cast<int64_t>(static_cast<uint64_t>(row) / static_cast<uint64_t>(p.S)),
                      t = row - b * p.S, c = p.quads.C;
        To* to = p.to + b * p.to_stride[0] + t * p.to_stride[1];
        const From* from = p.source(b, t);
        if (!from && p.accumulate) return;
        QuadOf<To> q{};
        if (from)
            q = converted<To>(moved_quad<kWhole>(from, p.order, k, c));
        else if (p.first)
            q = converted<To>(load_quad<kWhole>(p.first, k, c));
        if (p.accumulate) q = map([](To a, To e) { return a + e; }, load_quad<kWhole>(to, k, c), q);
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

template <class From, class To>
Status move(const Reorder& p, const Stream& stream) {
    const Move<From, To> m{.from = p.x.as<From>(),
                           .first = p.first.as<float>(),
                           .to = p.y.as<To>(),
                           .from_stride = {p.x.stride[0], p.x.stride[1]},
                           .to_stride = {p.y.stride[0], p.y.stride[1]},
                           .S = p.y.shape[1],
                           .order = p.channels,
                           .reverse = p.reverse,
                           .backward = false,
                           .accumulate = false,
                           .late = p.first ? 1 : 0,
                           .quads = grid_of(p.y, p.x, p.first)};
    return launch("reorder", stream, m.quads.grid(), move_quads<From, To>, m);
}

template <class From>
Status move_from(const Reorder& p, const Stream& stream) {
    return p.y.dtype == DType::f64 ? move<From, double>(p, stream) : move<From, float>(p, stream);
}

Status run(const Reorder& p, const Stream& stream, Workspace) {
    return p.x.dtype == DType::f64 ? move_from<double>(p, stream) : move_from<float>(p, stream);
}

Status run_backward(const ReorderBackward& p, const Stream& stream, Workspace) {
    const int64_t B = p.d_x.shape[0], S = p.d_x.shape[1], c = p.d_x.shape[2];
    const Move<float, float> m{.from = p.d_y.as<float>(),
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
    NOEMA_TRY(launch("reorder_backward", stream, m.quads.grid(), move_quads<float, float>, m));
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
