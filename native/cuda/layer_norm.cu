// layer_norm: the row is read once, into registers, where it fits (8192 columns). Two passes over it: the mean of squares minus the
// square of the mean would cancel.
#include "noema/ops/layer_norm.h"

#include "common/rows.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Forward {
    const float *x, *weight, *bias, *scale, *shift;
    float *y, *mean, *inv_std;
    int64_t x_stride, y_stride, scale_stride, shift_stride, rows, rows_per_sequence;
    int C;
    float epsilon;
};

/// y of a quad of normalised values; scale and shift: the row's sequence's.
template <class S>
__device__ __forceinline__ Quad shaped(const Forward& p, const float* scale, const float* shift, int c, Quad y) {
    const auto load = [&](const float* of) { return load_quad<S::kWhole>(of, c, p.C); };
    if (p.weight) y = map([](float n, float w) { return n * w; }, y, load(p.weight));
    if (p.bias) y = map([](float n, float b) { return n + b; }, y, load(p.bias));
    if (!scale) return y;
    return map([](float n, float s, float t) { return n * (1.0f + s) + t; }, y, load(scale), load(shift));
}

template <class S>
__global__ void __launch_bounds__(kRowThreads) layer_norm_rows(Forward p) {
    SHARED_ARRAY(float, scratch, kRowWarps);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * S::kRowsAtOnce + S::group();
    if (row >= p.rows) return;  // the whole warp; with a block per row, never
    const Row<S> x(p.x + row * p.x_stride, p.C);
    const float columns = static_cast<float>(p.C);
    float total = 0;
    S::each(p.C, [&](int q, int c) { total += sum_inside<S::kWhole>(x(q, c), c, p.C); });
    const float mean = S::sum(total, scratch) / columns;
    float squares = 0;
    S::each(p.C, [&](int q, int c) {
        const Quad centred = map([&](float e) { return (e - mean) * (e - mean); }, x(q, c));
        squares += sum_inside<S::kWhole>(centred, c, p.C);
    });
    const float inv_std = rsqrtf(S::sum(squares, scratch) / columns + p.epsilon);
    const int64_t b = p.scale ? row / p.rows_per_sequence : 0;
    const float *scale = p.scale ? p.scale + b * p.scale_stride : nullptr, *shift = p.shift + b * p.shift_stride;
    float* y = p.y + row * p.y_stride;
    S::each(p.C, [&](int q, int c) {
        const Quad n = map([&](float e) { return (e - mean) * inv_std; }, x(q, c));
        store_quad<S::kWhole>(y, c, p.C, shaped<S>(p, scale, shift, c, n));
    });
    if (!p.mean || S::thread() != 0) return;
    p.mean[row] = mean;
    p.inv_std[row] = inv_std;
}

Status run(const LayerNorm& p, const Stream& stream, Workspace) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1];
    const Forward f{p.x.as<float>(),
                    p.weight.as<float>(),
                    p.bias.as<float>(),
                    p.scale.as<float>(),
                    p.shift.as<float>(),
                    p.y.as<float>(),
                    p.mean.as<float>(),
                    p.inv_std.as<float>(),
                    p.x.stride[0],
                    p.y.stride[0],
                    p.scale.stride[0],
                    p.shift.stride[0],
                    R,
                    p.rows_per_sequence,
                    static_cast<int>(C),
                    p.epsilon};
    const bool aligned = rows_aligned(p.x, p.weight, p.bias, p.scale, p.shift, p.y);
    return with_row_shape(C, aligned, [&](auto shape) {
        using S = decltype(shape);
        return launch("layer_norm", stream, row_grid<S>(R), layer_norm_rows<S>, f);
    });
}

}  // namespace

Op<LayerNorm> layer_norm_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
