// codebook_encode: a thread per scalar. Backward: rows sorted by id, stably; a warp per id adds that id's rows, in order.
#include "common/launch.h"
#include "common/reduce.h"
#include "common/sort.h"
#include "cuda.h"
#include "noema/ops/codebook.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

Grid over(int64_t n, int64_t per_block, int64_t columns = 1) {
    return {.blocks = dim3(static_cast<unsigned>(ceil_div(n, per_block)), static_cast<unsigned>(columns)),
            .threads = kThreads};
}

struct Encode {
    const int32_t* ids;
    const float *mean, *log_sigma, *eps;
    float* z;
    int64_t mean_stride, eps_stride, z_stride, R, d;
};

__global__ void __launch_bounds__(kThreads) encode(Encode p) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (item >= p.R * p.d) return;
    const int64_t r = static_cast<int64_t>(static_cast<uint64_t>(item) / static_cast<uint64_t>(p.d)),
                  i = item - r * p.d;
    const int32_t k = p.ids[r];
    p.z[r * p.z_stride + i] = fmaf(expf(p.log_sigma[k]), p.eps[r * p.eps_stride + i], p.mean[k * p.mean_stride + i]);
}

struct Backward {
    const int32_t *ids, *keys, *rows;  // rows sorted by id
    const float *log_sigma, *eps, *d_z;
    float* stretch;  // [R] sigma (d_z . eps)
    float *d_mean, *d_log_sigma;
    int64_t eps_stride, d_z_stride, d_mean_stride, R, d;
};

__global__ void __launch_bounds__(kThreads) find_stretch(Backward p) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (r >= p.R) return;
    float sum = 0;
    for (int64_t i = 0; i < p.d; ++i) sum = fmaf(p.d_z[r * p.d_z_stride + i], p.eps[r * p.eps_stride + i], sum);
    p.stretch[r] = sum * expf(p.log_sigma[p.ids[r]]);
}

/// A lane per column, log_sigma's after the means'; eight rows are under way at once.
__global__ void __launch_bounds__(kThreads) add_rows(Backward p) {
    constexpr int kAtOnce = 8;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (first >= p.R || (first > 0 && p.keys[first - 1] == p.keys[first])) return;
    const int32_t id = p.keys[first];
    const int64_t c = static_cast<int64_t>(blockIdx.y) * 32 + lane;
    if (c > p.d) return;
    float* to = c < p.d ? p.d_mean + id * p.d_mean_stride + c : p.d_log_sigma + id;
    const float* from = c < p.d ? p.d_z + c : p.stretch;
    const int64_t stride = c < p.d ? p.d_z_stride : 1;
    float sum = *to;
    for (int64_t at = first; at < p.R && p.keys[at] == id; at += kAtOnce) {
        float next[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
            next[j] = at + j < p.R && p.keys[at + j] == id ? from[p.rows[at + j] * stride] : 0.0f;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) sum += next[j];  // 0 after the last: changes nothing
    }
    *to = sum;
}

Status run(const CodebookEncode& p, const Stream& stream, Workspace) {
    const int64_t R = p.z.shape[0], d = p.z.shape[1];
    const Encode e{p.ids.as<int32_t>(),
                   p.mean.as<float>(),
                   p.log_sigma.as<float>(),
                   p.eps.as<float>(),
                   p.z.as<float>(),
                   p.mean.stride[0],
                   p.eps.stride[0],
                   p.z.stride[0],
                   R,
                   d};
    return launch("codebook_encode", stream, over(R * d, kThreads), encode, e);
}

size_t backward_workspace(const CodebookEncodeBackward& p, const Stream&) {
    const int64_t R = p.d_z.shape[0];
    return sort_rows_workspace(R) + workspace_bytes<float>(R);
}

Status run_backward(const CodebookEncodeBackward& p, const Stream& stream, Workspace w) {
    const int64_t R = p.d_z.shape[0], d = p.d_z.shape[1];
    SortedRows sorted;
    NOEMA_TRY(sort_rows(p.ids.as<int32_t>(), R, p.d_mean.shape[0], stream, w, sorted));
    Backward b{p.ids.as<int32_t>(),
               sorted.keys,
               sorted.rows,
               p.log_sigma.as<float>(),
               p.eps.as<float>(),
               p.d_z.as<float>(),
               w.take<float>(R),
               p.d_mean.as<float>(),
               p.d_log_sigma.as<float>(),
               p.eps.stride[0],
               p.d_z.stride[0],
               p.d_mean.stride[0],
               R,
               d};
    NOEMA_TRY(launch("codebook_encode_backward stretch", stream, over(R, kThreads), find_stretch, b));
    return launch("codebook_encode_backward", stream, over(R, kWarps, ceil_div(d + 1, 32)), add_rows, b);
}

}  // namespace

Op<CodebookEncode> codebook_encode_entry() {
    return {run, nullptr};
}
Op<CodebookEncodeBackward> codebook_encode_backward_entry() {
    return {run_backward, backward_workspace};
}

}  // namespace noema::cuda
