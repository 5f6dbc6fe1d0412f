// layer_norm_backward: one pass over x and d_y gives d_x and, per chunk of rows of one sequence, the column sums of d_y and of
// d_y n, n the normalised row. Weight, bias, scale and shift are the same for all rows of a chunk, so every parameter's gradient
// follows from these two:
//   d_shift = sum d_y                     d_bias   += (1 + scale) sum d_y
//   d_scale = weight sum d_y n + bias sum d_y     d_weight += (1 + scale) sum d_y n
#include "common/column_sums.h"
#include "common/rows.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Backward {
    const float *x, *weight, *scale, *mean, *inv_std, *d_y;
    float *d_x, *plain, *times_n;  // the last two: sums of d_y and d_y n, [chunks, C], or null
    int64_t x_stride, scale_stride, d_y_stride, d_x_stride;
    RowChunks chunks;
    int C;
    bool accumulate_x;
};

/// What d_y is multiplied with to become the gradient of n.
template <class S>
__device__ __forceinline__ Quad slope(const Backward& p, const float* scale, int c) {
    Quad s = filled(1.0f);
    if (scale) s = map([](float e) { return 1.0f + e; }, load_quad<S::kWhole>(scale, c, p.C));
    if (p.weight) s = map([](float a, float w) { return a * w; }, s, load_quad<S::kWhole>(p.weight, c, p.C));
    return s;
}

// d_x = inv_std (d_n - mean(d_n) - n mean(d_n n)).
template <class S>
__global__ void __launch_bounds__(kRowThreads) layer_norm_backward_rows(Backward p) {
    SHARED_ARRAY(float, scratch, 2 * kRowWarps);
    SHARED_ARRAY(float4, totals, kRowThreads);
    const int64_t chunk = blockIdx.x, last = p.chunks.last(chunk);
    const float* scale = p.scale ? p.scale + p.chunks.sequence(chunk) * p.scale_stride : nullptr;
    const int summed = p.plain ? p.C : 0;
    ColumnTotals<S> plain(p.plain + chunk * summed, summed), times_n(p.times_n + chunk * summed, summed);
    for (int64_t row = p.chunks.first(chunk) + S::group(); row < last; row += S::kRowsAtOnce) {
        const Row<S> x(p.x + row * p.x_stride, p.C), d_y(p.d_y + row * p.d_y_stride, p.C);
        const float mean = p.mean[row], inv_std = p.inv_std[row];
        const auto normalised = [&](float e) { return (e - mean) * inv_std; };
        const auto product = [](float a, float b) { return a * b; };
        float sums[2] = {0, 0};
        S::each(p.C, [&](int q, int c) {
            const Quad d_n = map(product, d_y(q, c), slope<S>(p, scale, c));
            sums[0] += sum_inside<S::kWhole>(d_n, c, p.C);
            sums[1] += sum_inside<S::kWhole>(map(product, d_n, map(normalised, x(q, c))), c, p.C);
        });
        S::sum(sums, scratch);
        const float average = sums[0] / static_cast<float>(p.C), projection = sums[1] / static_cast<float>(p.C);
        float* d_x = p.d_x + row * p.d_x_stride;
        S::each(p.C, [&](int q, int c) {
            const Quad n = map(normalised, x(q, c)), g = d_y(q, c);
            if (p.plain) {
                plain.add(q, c, g);
                times_n.add(q, c, map(product, g, n));
            }
            const Quad d_n = map(product, g, slope<S>(p, scale, c));
            Quad out = map([&](float d, float e) { return inv_std * (d - average - e * projection); }, d_n, n);
            if (p.accumulate_x)
                out = map([](float a, float b) { return a + b; }, load_quad<S::kWhole>(d_x, c, p.C), out);
            store_quad<S::kWhole>(d_x, c, p.C, out);
        });
    }
    if (!p.plain) return;
    plain.finish(totals);
    times_n.finish(totals);
}

struct Gather {
    const float *plain, *times_n, *weight, *bias, *scale;
    float *d_weight, *d_bias, *d_scale, *d_shift;
    int64_t scale_stride, d_scale_stride, d_shift_stride;
    RowChunks chunks;
    int64_t sequences, count;  // count: chunks
    int64_t C;
};

__global__ void __launch_bounds__(ColumnTile::kThreads, 2) gather_shared(Gather p) {
    SHARED_ARRAY(float, scratch, ColumnTile::kThreads);
    const int64_t c = ColumnTile::column();
    const auto total = [&](const float* parts) {
        return ColumnTile::sum<float>(p.count, scratch, [&](int64_t i) {
            if (c >= p.C) return 0.0f;
            const float sum = parts[i * p.C + c];
            return p.scale ? (1.0f + p.scale[p.chunks.sequence(i) * p.scale_stride + c]) * sum : sum;
        });
    };
    const bool mine = c < p.C && threadIdx.x < ColumnTile::kColumns;
    if (p.d_weight) {
        const float sum = total(p.times_n);
        if (mine) p.d_weight[c] += sum;
    }
    if (p.d_bias) {
        const float sum = total(p.plain);
        if (mine) p.d_bias[c] += sum;
    }
}

__global__ void __launch_bounds__(ColumnTile::kThreads) gather_sequences(Gather p) {
    SHARED_ARRAY(float, scratch, ColumnTile::kThreads);
    const int64_t c = ColumnTile::column(), n = p.chunks.per_sequence;
    for (int64_t b = blockIdx.y; b < p.sequences; b += gridDim.y) {
        const auto total = [&](const float* parts) {
            return ColumnTile::sum<float>(n, scratch,
                                          [&](int64_t i) { return c < p.C ? parts[(b * n + i) * p.C + c] : 0.0f; });
        };
        const float plain = total(p.plain), times_n = p.d_scale ? total(p.times_n) : 0.0f;
        if (c >= p.C || threadIdx.x >= ColumnTile::kColumns) continue;
        if (p.d_shift) p.d_shift[b * p.d_shift_stride + c] = plain;
        if (!p.d_scale) continue;
        const float weighted = p.weight ? times_n * p.weight[c] : times_n;
        p.d_scale[b * p.d_scale_stride + c] = p.bias ? weighted + plain * p.bias[c] : weighted;
    }
}

// Without adaLN all rows share all parameters: one sequence.
RowChunks chunks(const LayerNormBackward& p) {
    const int64_t R = p.x.shape[0];
    return RowChunks::of(R, p.scale ? p.rows_per_sequence : R > 0 ? R : 1);
}

bool sums_columns(const LayerNormBackward& p) {
    return p.d_weight || p.d_bias || p.d_scale || p.d_shift;
}

size_t workspace(const LayerNormBackward& p, const Stream&) {
    return sums_columns(p) ? 2 * workspace_bytes<float>(chunks(p).count() * p.x.shape[1]) : 0;
}

Status gather(const LayerNormBackward& p, const Stream& stream, const RowChunks& rows, const Backward& b) {
    const int64_t C = p.x.shape[1], B = rows.sequences();
    const Gather g{b.plain,
                   b.times_n,
                   b.weight,
                   p.bias.as<float>(),
                   b.scale,
                   p.d_weight.as<float>(),
                   p.d_bias.as<float>(),
                   p.d_scale.as<float>(),
                   p.d_shift.as<float>(),
                   b.scale_stride,
                   p.d_scale.stride[0],
                   p.d_shift.stride[0],
                   rows,
                   B,
                   rows.count(),
                   C};
    Grid grid{.blocks = dim3(ColumnTile::tiles(C)), .threads = ColumnTile::kThreads};
    if (p.d_weight || p.d_bias) NOEMA_TRY(launch("layer_norm_backward parameters", stream, grid, gather_shared, g));
    grid.blocks.y = static_cast<unsigned>(B < kMostGridRows ? B : kMostGridRows);
    if (p.d_scale || p.d_shift) return launch("layer_norm_backward sequences", stream, grid, gather_sequences, g);
    return {};
}

Status run(const LayerNormBackward& p, const Stream& stream, Workspace w) {
    const int64_t C = p.x.shape[1];
    const RowChunks rows = chunks(p);
    const int64_t sums = sums_columns(p) ? rows.count() * C : 0;
    if (rows.count() == 0) return {};
    float *plain = sums ? w.take<float>(sums) : nullptr, *times_n = sums ? w.take<float>(sums) : nullptr;
    const Backward b{p.x.as<float>(),
                     p.weight.as<float>(),
                     p.scale.as<float>(),
                     p.mean.as<float>(),
                     p.inv_std.as<float>(),
                     p.d_y.as<float>(),
                     p.d_x.as<float>(),
                     plain,
                     times_n,
                     p.x.stride[0],
                     p.scale.stride[0],
                     p.d_y.stride[0],
                     p.d_x.stride[0],
                     rows,
                     static_cast<int>(C),
                     p.accumulate_x};
    const bool aligned = rows_aligned(p.x, p.weight, p.scale, p.d_y, p.d_x);
    NOEMA_TRY(with_row_shape(C, aligned, [&](auto shape) {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(rows.count())), .threads = kRowThreads};
        return launch("layer_norm_backward", stream, grid, layer_norm_backward_rows<decltype(shape)>, b);
    }));
    return sums ? gather(p, stream, rows, b) : Status{};
}

}  // namespace

Op<LayerNormBackward> layer_norm_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
