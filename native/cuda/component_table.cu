#include "common/component_table.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 128;

struct Transpose {
    const float* from;
    float* to;
    int64_t from_stride, N, d, stride;
};

/// A thread per row: a warp's 32 rows lie together, so what a load leaves of a line is used by the next ones.
__global__ void __launch_bounds__(kThreads) transpose_rows(Transpose p) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (n >= p.stride) return;
    const float* row = p.from + n * p.from_stride;
    for (int64_t i = 0; i < p.d; ++i) p.to[i * p.stride + n] = n < p.N ? row[i] : 0.0f;
}

struct Sigmas {
    const float* log_sigma;
    float* rows;
    int64_t K, stride;
};

__global__ void __launch_bounds__(kThreads) invert_sigmas(Sigmas p) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (k >= p.stride) return;
    const bool inside = k < p.K;
    const float x = inside ? -p.log_sigma[k] : -INFINITY;
    p.rows[k] = expf(x);
    p.rows[p.stride + k] =
        0.5f * expf(2 * x);  // an exp of its own: log N of a far value has that value's relative error
    p.rows[2 * p.stride + k] = x;
}

struct Additions {
    TableSums sums;
    float *d_mean, *d_log_sigma;
    int64_t d_mean_stride;
};

__global__ void __launch_bounds__(kThreads) add_sums(Additions p) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, i = blockIdx.y;
    float* to = i < p.sums.d ? p.d_mean : p.d_log_sigma;
    if (k >= p.sums.K || !to) return;
    to += i < p.sums.d ? k * p.d_mean_stride + i : k;
    float sum = *to;
    for (int64_t chunk = 0; chunk < p.sums.count; ++chunk) sum += p.sums.at(chunk, i)[k];
    *to = sum;
}

Grid over(int64_t n, int64_t rows = 1) {
    return {.blocks = dim3(static_cast<unsigned>(ceil_div(n, kThreads)), static_cast<unsigned>(rows)),
            .threads = kThreads};
}

}  // namespace

Status columns_of(const View& matrix, const Stream& stream, Workspace& workspace, Columns& out) {
    const int64_t N = matrix.shape[0], d = matrix.shape[1], stride = Columns::stride_of(N);
    float* to = workspace.take<float>(d * stride);
    out = {to, N, d, stride};
    return launch("transposing a table", stream, over(stride), transpose_rows,
                  Transpose{matrix.as<float>(), to, matrix.stride[0], N, d, stride});
}

Status component_table(const View& mean, const View& log_sigma, const Stream& stream, Workspace& workspace,
                       ComponentTable& out) {
    const int64_t K = mean.shape[0], stride = Columns::stride_of(K);
    float* rows = workspace.take<float>(3 * stride);
    out = {rows, rows + stride, rows + 2 * stride, {}};
    NOEMA_TRY(columns_of(mean, stream, workspace, out.mean));
    return launch("a table's sigmas", stream, over(stride), invert_sigmas,
                  Sigmas{log_sigma.as<float>(), rows, K, stride});
}

TableSums table_sums(int64_t count, int64_t K, int64_t d, Workspace& workspace) {
    const int64_t stride = Columns::stride_of(K);
    return {workspace.take<float>(count * (d + 1) * stride), count, K, d, stride};
}

Status add_table_sums(const TableSums& sums, const View& d_mean, const View& d_log_sigma, const Stream& stream) {
    return launch("adding a table's gradients", stream, over(sums.K, sums.d + 1), add_sums,
                  Additions{sums, d_mean.as<float>(), d_log_sigma.as<float>(), d_mean ? d_mean.stride[0] : 0});
}

}  // namespace noema::cuda
