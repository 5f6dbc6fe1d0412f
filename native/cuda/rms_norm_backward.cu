// rms_norm_backward: one pass over x and d_y gives d_x and, per chunk of rows, a row of d_weight; those are added after.
// With n = x inv_rms: d_x = inv_rms (d_y w - n mean(d_y w n)), d_weight += sum(d_y n).
#include "common/column_sums.h"
#include "common/rows.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Backward {
    const float *x, *weight, *inv_rms, *d_y;
    float *d_x, *parts;  // parts: [chunks, C], or null
    int64_t x_stride, d_y_stride, d_x_stride;
    RowChunks chunks;
    int C;
    bool accumulate_x;
};

template <class S>
__global__ void __launch_bounds__(kRowThreads, 1) rms_norm_backward_rows(Backward p) {
    SHARED_ARRAY(float, scratch, kRowWarps);
    SHARED_ARRAY(float4, totals, kRowThreads);
    const int64_t chunk = blockIdx.x, last = p.chunks.last(chunk);
    ColumnTotals<S> d_weight(p.parts ? p.parts + chunk * p.C : nullptr, p.parts ? p.C : 0);
    for (int64_t row = p.chunks.first(chunk) + S::group(); row < last; row += S::kRowsAtOnce) {
        const Row<S> x(p.x + row * p.x_stride, p.C), d_y(p.d_y + row * p.d_y_stride, p.C);
        const float inv_rms = p.inv_rms[row];
        float sum = 0;
        S::each(p.C, [&](int q, int c) {
            const Quad w = load_quad<S::kWhole>(p.weight, c, p.C);
            const auto product = [&](float n, float d, float weight) { return d * weight * (n * inv_rms); };
            sum += sum_inside<S::kWhole>(map(product, x(q, c), d_y(q, c), w), c, p.C);
        });
        const float projection = S::sum(sum, scratch) / static_cast<float>(p.C);
        float* d_x = p.d_x + row * p.d_x_stride;
        S::each(p.C, [&](int q, int c) {
            const Quad n = map([&](float e) { return e * inv_rms; }, x(q, c)), d = d_y(q, c);
            const Quad w = load_quad<S::kWhole>(p.weight, c, p.C);
            if (p.parts) d_weight.add(q, c, map([](float a, float b) { return a * b; }, d, n));
            Quad out =
                map([&](float e, float g, float weight) { return inv_rms * (g * weight - e * projection); }, n, d, w);
            if (p.accumulate_x)
                out = map([](float a, float b) { return a + b; }, load_quad<S::kWhole>(d_x, c, p.C), out);
            store_quad<S::kWhole>(d_x, c, p.C, out);
        });
    }
    if (p.parts) d_weight.finish(totals);
}

RowChunks chunks(const RmsNormBackward& p) {
    return RowChunks::of(p.x.shape[0], p.x.shape[0] > 0 ? p.x.shape[0] : 1);
}

size_t workspace(const RmsNormBackward& p, const Stream&) {
    return p.d_weight ? workspace_bytes<float>(chunks(p).count() * p.x.shape[1]) : 0;
}

Status run(const RmsNormBackward& p, const Stream& stream, Workspace w) {
    const int64_t C = p.x.shape[1];
    const RowChunks rows = chunks(p);
    float* parts = p.d_weight ? w.take<float>(rows.count() * C) : nullptr;
    const Backward b{p.x.as<float>(),       p.weight.as<float>(),
                     p.inv_rms.as<float>(), p.d_y.as<float>(),
                     p.d_x.as<float>(),     parts,
                     p.x.stride[0],         p.d_y.stride[0],
                     p.d_x.stride[0],       rows,
                     static_cast<int>(C),   p.accumulate_x};
    NOEMA_TRY(with_row_shape(C, rows_aligned(p.x, p.weight, p.d_y, p.d_x), [&](auto shape) {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(rows.count())), .threads = kRowThreads};
        return launch("rms_norm_backward", stream, grid, rms_norm_backward_rows<decltype(shape)>, b);
    }));
    return parts ? column_sums({parts, 1, rows.count(), C, p.d_weight.as<float>(), C, true}, stream) : Status{};
}

}  // namespace

Op<RmsNormBackward> rms_norm_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
