#include "noema/ops/scatter.h"

#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Move {
    const int32_t* rows;
    const float* x;
    float* y;
    int64_t x_stride, y_stride;
    QuadGrid quads;
};

__global__ void __launch_bounds__(QuadGrid::kThreads) scatter_rows(Move p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t c) {
        constexpr bool kWhole = decltype(whole)::value;
        const int64_t to = p.rows[row];
        if (to < 0) return;
        store_quad<kWhole>(p.y + to * p.y_stride, c, p.quads.C,
                           load_quad<kWhole>(p.x + row * p.x_stride, c, p.quads.C));
    });
}

Status run(const Scatter& p, const Stream& stream, Workspace) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1];
    const Move m{p.rows.as<int32_t>(), p.x.as<float>(),
                 p.y.as<float>(),      p.x.stride[0],
                 p.y.stride[0],        {R * ceil_div(C, 4), ceil_div(C, 4), C, rows_aligned(p.x, p.y)}};
    return launch("scatter", stream, m.quads.grid(), scatter_rows, m);
}

}  // namespace

Op<Scatter> scatter_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
