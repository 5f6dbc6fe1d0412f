// rope: a block turns all heads of a few positions, so that each angle, a sine and a cosine in double, is computed once per position
// and pair: some 100 instructions, for 2 H channels to use. Even with two double units per multiprocessor (sm_89) the 64 angles
// of a position take 3200 cycles, and moving its 12 heads of 128 channels 4000; with 64 units (sm_90) they are nothing.
#include "noema/ops/rope.h"

#include "common/quads.h"
#include "common/rope.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

/// One angle per thread and round; pairs of a wider head go to further blocks.
constexpr int kThreads = 256;

struct Turn {
    const float* x;
    float* y;
    const int32_t* positions;
    int64_t x_stride[3], y_stride[3], positions_stride;  // of b, t, h; of b
    int64_t T, position_offset;
    int H, pairs, block_pairs, block_positions;
    RopeFrequencies frequencies;
    bool halves, inverse, aligned;
};

/// cos and sin of pair i at position t of batch row b.
__device__ __forceinline__ float2 angle(const Turn& p, int64_t b, int64_t t, int i) {
    const int64_t position = p.positions ? p.positions[b * p.positions_stride + t] : p.position_offset + t;
    const float2 a = p.frequencies.angle(position, i);
    return make_float2(a.x, p.inverse ? -a.y : a.y);
}

/// Turns four pairs, whose first and second channels start at `first` and `second`: of half_split the pairs' first channels
/// and their second ones, of adjacent_pairs two pairs each.
template <bool kWhole>
__device__ __forceinline__ void turn_four(const Turn& p, const float* x, float* y, int i, const float2 (&a)[4]) {
    const int D = 2 * p.pairs, end = p.halves ? p.pairs : D;
    const int first = p.halves ? i : 2 * i, second = p.halves ? i + p.pairs : 2 * i + 4;
    const Quad u = load_quad<kWhole>(x, first, end), v = load_quad<kWhole>(x, second, D);
    Quad to_u, to_v;
    if (p.halves) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            to_u.e[k] = u.e[k] * a[k].x - v.e[k] * a[k].y;
            to_v.e[k] = v.e[k] * a[k].x + u.e[k] * a[k].y;
        }
    } else {
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            const float2 of_u = a[k / 2], of_v = a[k / 2 + 2];
            to_u.e[k] = u.e[k] * of_u.x - u.e[k + 1] * of_u.y;
            to_u.e[k + 1] = u.e[k + 1] * of_u.x + u.e[k] * of_u.y;
            to_v.e[k] = v.e[k] * of_v.x - v.e[k + 1] * of_v.y;
            to_v.e[k + 1] = v.e[k + 1] * of_v.x + v.e[k] * of_v.y;
        }
    }
    store_quad<kWhole>(y, first, end, to_u);
    store_quad<kWhole>(y, second, D, to_v);
}

__global__ void __launch_bounds__(kThreads) rope_positions(Turn p) {
    SHARED_ARRAY(float2, angles, kThreads);
    const int64_t b = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * p.block_positions;
    const int positions = static_cast<int>(min(static_cast<int64_t>(p.block_positions), p.T - first));
    const int low = static_cast<int>(blockIdx.z) * p.block_pairs, pairs = min(p.block_pairs, p.pairs - low);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < positions * pairs) angles[thread] = angle(p, b, first + thread / pairs, low + thread % pairs);
    __syncthreads();
    const int fours = (pairs + 3) / 4, items = positions * p.H * fours;
    for (int item = thread; item < items; item += kThreads) {
        const int i = 4 * (item % fours), h = item / fours % p.H, n = item / fours / p.H;
        float2 a[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) a[k] = angles[n * pairs + min(i + k, pairs - 1)];
        const int64_t t = first + n;
        const float* x = p.x + b * p.x_stride[0] + t * p.x_stride[1] + h * p.x_stride[2];
        float* y = p.y + b * p.y_stride[0] + t * p.y_stride[1] + h * p.y_stride[2];
        if (p.aligned)
            turn_four<true>(p, x, y, low + i, a);
        else
            turn_four<false>(p, x, y, low + i, a);
    }
}

Status run(const Rope& p, const Stream& stream, Workspace) {
    const int64_t B = p.x.shape[0], T = p.x.shape[1], H = p.x.shape[2], P = p.x.shape[3] / 2;
    if (P == 0 || H == 0) return {};
    const int64_t block_pairs = P < kThreads ? P : kThreads, positions = kThreads / block_pairs;
    Turn t{p.x.as<float>(),
           p.y.as<float>(),
           p.positions.as<int32_t>(),
           {},
           {},
           p.positions.stride[0],
           T,
           p.position_offset,
           static_cast<int>(H),
           static_cast<int>(P),
           static_cast<int>(block_pairs),
           static_cast<int>(positions),
           RopeFrequencies::of(p.theta, P),
           p.layout == RopeLayout::half_split,
           p.inverse,
           P % 4 == 0 && rows_aligned(p.x, p.y)};
    for (int i = 0; i < 3; ++i) t.x_stride[i] = p.x.stride[i], t.y_stride[i] = p.y.stride[i];
    for (int64_t b = 0; b < B; b += kMostGridRows) {  // one launch, but for absurd batches
        Turn part = t;
        part.x += b * p.x.stride[0], part.y += b * p.y.stride[0];
        if (part.positions) part.positions += b * p.positions.stride[0];
        const int64_t rows = B - b < kMostGridRows ? B - b : kMostGridRows;
        const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(T, positions)), static_cast<unsigned>(rows),
                                       static_cast<unsigned>(ceil_div(P, block_pairs))),
                        .threads = kThreads};
        NOEMA_TRY(launch("rope", stream, grid, rope_positions, part));
    }
    return {};
}

}  // namespace

Op<Rope> rope_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
