// rms_norm: the row is read once, into registers, where it fits (8192 columns).
#include "noema/ops/rms_norm.h"

#include "common/rows.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Forward {
    const float *x, *weight;
    float *y, *inv_rms;
    int64_t x_stride, y_stride, rows;
    int C;
    float epsilon;
};

template <class S>
__global__ void __launch_bounds__(kRowThreads) rms_norm_rows(Forward p) {
    SHARED_ARRAY(float, scratch, kRowWarps);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * S::kRowsAtOnce + S::group();
    if (row >= p.rows) return;  // the whole warp; with a block per row, never
    const Row<S> x(p.x + row * p.x_stride, p.C);
    float sum = 0;
    S::each(p.C, [&](int q, int c) {
        const Quad v = x(q, c);
        sum += sum_inside<S::kWhole>(map([](float e) { return e * e; }, v), c, p.C);
    });
    const float inv_rms = rsqrtf(S::sum(sum, scratch) / static_cast<float>(p.C) + p.epsilon);
    S::each(p.C, [&](int q, int c) {
        const Quad w = load_quad<S::kWhole>(p.weight, c, p.C);
        const Quad y = map([&](float e, float scale) { return e * inv_rms * scale; }, x(q, c), w);
        store_quad<S::kWhole>(p.y + row * p.y_stride, c, p.C, y);
    });
    if (p.inv_rms && S::thread() == 0) p.inv_rms[row] = inv_rms;
}

Status run(const RmsNorm& p, const Stream& stream, Workspace) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1];
    const Forward f{p.x.as<float>(),
                    p.weight.as<float>(),
                    p.y.as<float>(),
                    p.inv_rms.as<float>(),
                    p.x.stride[0],
                    p.y.stride[0],
                    R,
                    static_cast<int>(C),
                    p.epsilon};
    return with_row_shape(C, rows_aligned(p.x, p.weight, p.y), [&](auto shape) {
        using S = decltype(shape);
        return launch("rms_norm", stream, row_grid<S>(R), rms_norm_rows<S>, f);
    });
}

}  // namespace

Op<RmsNorm> rms_norm_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
