// global_norm: a block per 16384 elements, 16 loads of 16 bytes per thread (a model of 100 M parameters has 6000 blocks), then one block
// over the chunks' sums.
#include <cmath>

#include "common/quads.h"
#include "common/reduce.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kChunk = 16384, kLastThreads = 1024;

struct Norm {
    const float* x;
    double* parts;
    float* norm;
    int64_t n, chunks;
    float scale;
    bool aligned;
};

// The square of an f32 is exact in double.
template <bool kWhole>
__device__ __forceinline__ double add_squares(const Norm& p, int64_t i, double sum) {
    const Quad q = load_quad<kWhole>(p.x, i, p.n);
#pragma unroll
    for (int e = 0; e < 4; ++e) sum = fma(static_cast<double>(q.e[e]), static_cast<double>(q.e[e]), sum);
    return sum;
}

__global__ void __launch_bounds__(kThreads) square_chunks(Norm p) {
    SHARED_ARRAY(double, scratch, kThreads / 32);
    const int64_t first = blockIdx.x * static_cast<int64_t>(kChunk) + 4 * threadIdx.x;
    double sums[2] = {0, 0};  // two chains of additions
    if (p.aligned && first - 4 * threadIdx.x + kChunk <= p.n) {
#pragma unroll 8
        for (int k = 0; k < kChunk / (4 * kThreads); k += 2)
            for (int j = 0; j < 2; ++j) sums[j] = add_squares<true>(p, first + (k + j) * (4 * kThreads), sums[j]);
    } else {
        for (int k = 0; k < kChunk / (4 * kThreads); k += 2)
            for (int j = 0; j < 2; ++j) sums[j] = add_squares<false>(p, first + (k + j) * (4 * kThreads), sums[j]);
    }
    const double sum = block_reduce(sums[0] + sums[1], Sum{}, scratch);
    if (threadIdx.x == 0) p.parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kLastThreads) add_chunks(Norm p) {
    SHARED_ARRAY(double, scratch, kLastThreads / 32);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < p.chunks; i += kLastThreads) sum += p.parts[i];
    sum = block_reduce(sum, Sum{}, scratch);
    if (threadIdx.x == 0) *p.norm = static_cast<float>(static_cast<double>(p.scale) * sqrt(sum));
}

size_t workspace(const GlobalNorm& p, const Stream&) {
    return workspace_bytes<double>(ceil_div(p.x.shape[0], kChunk));
}

Status run(const GlobalNorm& p, const Stream& stream, Workspace w) {
    const int64_t n = p.x.shape[0], chunks = ceil_div(n, kChunk);
    const Norm norm{p.x.as<float>(), w.take<double>(chunks), p.norm.as<float>(), n, chunks, p.scale, rows_aligned(p.x)};
    NOEMA_TRY(launch("global_norm", stream, {.blocks = dim3(static_cast<unsigned>(chunks)), .threads = kThreads},
                     square_chunks, norm));
    return launch("global_norm sum", stream, {.blocks = dim3(1), .threads = kLastThreads}, add_chunks, norm);
}

}  // namespace

Op<GlobalNorm> global_norm_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
