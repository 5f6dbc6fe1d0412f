// gated_add: a thread per quad. gated_add_backward: blocks own 128 columns of a chunk of one sequence's rows, so that
// d_f and the chunk's column sums come of one pass.
#include "noema/ops/gated_add.h"

#include "common/column_sums.h"
#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Forward {
    const float *x, *f, *gate;
    float* y;
    int64_t x_stride, f_stride, gate_stride, y_stride, rows_per_sequence;
    QuadGrid quads;
};

__global__ void __launch_bounds__(QuadGrid::kThreads) gated_add_quads(Forward p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t c) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t C = p.quads.C;
        const Quad x = load_quad<kWhole>(p.x + row * p.x_stride, c, C),
                   f = load_quad<kWhole>(p.f + row * p.f_stride, c, C);
        const Quad gate = load_quad<kWhole>(p.gate + row / p.rows_per_sequence * p.gate_stride, c, C);
        store_quad<kWhole>(p.y + row * p.y_stride, c, C,
                           map([](float a, float b, float g) { return a + g * b; }, x, f, gate));
    });
}

Status run(const GatedAdd& p, const Stream& stream, Workspace) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1];
    const Forward f{p.x.as<float>(),     p.f.as<float>(),
                    p.gate.as<float>(),  p.y.as<float>(),
                    p.x.stride[0],       p.f.stride[0],
                    p.gate.stride[0],    p.y.stride[0],
                    p.rows_per_sequence, {R * ceil_div(C, 4), ceil_div(C, 4), C, rows_aligned(p.x, p.f, p.gate, p.y)}};
    return launch("gated_add", stream, f.quads.grid(), gated_add_quads, f);
}

// --- backward --------------------------------------------------------------------------------------------------------

constexpr int kTileQuads = 32, kTileWarps = 8, kTileThreads = kTileQuads * kTileWarps;

struct Backward {
    const float *f, *gate, *d_y;
    float *d_f, *parts;  // parts: a row of sums per chunk, or null
    int64_t f_stride, gate_stride, d_y_stride, d_f_stride, parts_stride;
    RowChunks chunks;
    int64_t count, C;  // count: chunks
};

/// This thread's quad of columns, rows `warp`, `warp` + 8, ... of the chunk.
template <bool kWhole>
__device__ __forceinline__ Quad backward_quad(const Backward& p, int64_t chunk, int64_t c) {
    const Quad gate = load_quad<kWhole>(p.gate + p.chunks.sequence(chunk) * p.gate_stride, c, p.C);
    const int64_t last = p.chunks.last(chunk);
    Quad sum = filled(0);
#pragma unroll 2
    for (int64_t row = p.chunks.first(chunk) + threadIdx.x / kTileQuads; row < last; row += kTileWarps) {
        const Quad d = load_quad<kWhole>(p.d_y + row * p.d_y_stride, c, p.C);
        if (p.parts) {
            const Quad f = load_quad<kWhole>(p.f + row * p.f_stride, c, p.C);
            sum = map([](float s, float a, float b) { return s + a * b; }, sum, d, f);
        }
        store_quad<kWhole>(p.d_f + row * p.d_f_stride, c, p.C, map([](float a, float g) { return a * g; }, d, gate));
    }
    return sum;
}

template <bool kWhole>
__global__ void __launch_bounds__(kTileThreads) gated_add_backward_tiles(Backward p) {
    SHARED_ARRAY(float4, totals, kTileThreads);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kTileQuads;
    const int64_t c = 4 * (static_cast<int64_t>(blockIdx.y) * kTileQuads + lane), chunk = blockIdx.x;
    Quad sum = filled(0);
    if (c < p.C) sum = backward_quad<kWhole>(p, chunk, c);
    if (!p.parts) return;
    totals[thread] = make_float4(sum.e[0], sum.e[1], sum.e[2], sum.e[3]);
    __syncthreads();
    if (thread >= kTileQuads || c >= p.C) return;
    for (int w = 1; w < kTileWarps; ++w) {
        const float4 v = totals[w * kTileQuads + lane];
        sum = map([](float a, float b) { return a + b; }, sum, Quad{{v.x, v.y, v.z, v.w}});
    }
    store_quad<kWhole>(p.parts + chunk * p.parts_stride, c, p.C, sum);
}

RowChunks chunks(const GatedAddBackward& p) {
    return RowChunks::of(p.f.shape[0], p.rows_per_sequence);
}

size_t backward_workspace(const GatedAddBackward& p, const Stream&) {
    const RowChunks rows = chunks(p);
    return p.d_gate && rows.per_sequence > 1 ? workspace_bytes<float>(rows.count() * p.f.shape[1]) : 0;
}

Status run_backward(const GatedAddBackward& p, const Stream& stream, Workspace w) {
    const RowChunks rows = chunks(p);
    const int64_t C = p.f.shape[1];
    const bool direct = rows.per_sequence == 1;  // a chunk is a sequence: its sums are d_gate's row
    float* parts = !p.d_gate ? nullptr : direct ? p.d_gate.as<float>() : w.take<float>(rows.count() * C);
    const Backward b{p.f.as<float>(),
                     p.gate.as<float>(),
                     p.d_y.as<float>(),
                     p.d_f.as<float>(),
                     parts,
                     p.f.stride[0],
                     p.gate.stride[0],
                     p.d_y.stride[0],
                     p.d_f.stride[0],
                     direct ? p.d_gate.stride[0] : C,
                     rows,
                     rows.count(),
                     C};
    const Grid grid{
        .blocks = dim3(static_cast<unsigned>(rows.count()), static_cast<unsigned>(ceil_div(C, 4 * kTileQuads))),
        .threads = kTileThreads};
    const bool whole = C % 4 == 0 && rows_aligned(p.f, p.gate, p.d_y, p.d_f, p.d_gate);
    NOEMA_TRY(launch("gated_add_backward", stream, grid,
                     whole ? gated_add_backward_tiles<true> : gated_add_backward_tiles<false>, b));
    if (!parts || direct) return {};
    return column_sums({parts, rows.sequences(), rows.per_sequence, C, p.d_gate.as<float>(), p.d_gate.stride[0], false},
                       stream);
}

}  // namespace

Op<GatedAdd> gated_add_entry() {
    return {run, nullptr};
}
Op<GatedAddBackward> gated_add_backward_entry() {
    return {run_backward, backward_workspace};
}

}  // namespace noema::cuda
