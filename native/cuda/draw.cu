// draw: a few lanes per row, four candidates each at a time (one block of random numbers), then the best of the row.
#include "noema/ops/draw.h"

#include "common/launch.h"
#include "common/reduce.h"
#include "cuda.h"
#include "noema/rng.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;

struct Candidates {
    const float *weight, *uniforms;
    const int64_t* seeds;
    const int32_t *positions, *steps;
    int32_t* index;
    int64_t weight_stride, uniforms_stride;
    int R, K, lanes;  // lanes per row: a power of two
    uint32_t step;
    float temperature, scale, last;
};

struct Best {
    float score;
    int index;
};

/// The greater score; ties to the lower index.
struct Better {
    __device__ __forceinline__ Best operator()(const Best& a, const Best& b) const {
        return b.score > a.score || (b.score == a.score && b.index < a.index) ? b : a;
    }
};

/// 1e-10 - log(u + 1e-10) for u in [0, 1). Near 1 the sum u + 1e-10 would be lost in f32, so there log(u + e) is
/// log(u) + e / u (the next term is 1e-20 of 6e-8).
__device__ __forceinline__ float noise_of(float u) {
    constexpr float kTiny = 1e-10f;
    return u < 0.5f ? kTiny - logf(u + kTiny) : (kTiny - kTiny / u) - logf(u);
}

/// Ranks like weight / noise^temperature. Other temperatures than 0 and 1 compare logarithms: powers overflow f32.
__device__ __forceinline__ float score_of(float weight, float u, float temperature) {
    if (temperature == 0.0f) return weight;
    if (temperature == 1.0f) return weight / noise_of(u);
    return weight > 0.0f ? logf(weight) - temperature * logf(noise_of(u)) : -HUGE_VALF;
}

__device__ __forceinline__ Best best_of_lane(const Candidates& p, int row, int lane) {
    const float* weight = p.weight + row * p.weight_stride;
    const float* given = p.uniforms ? p.uniforms + row * p.uniforms_stride : nullptr;
    const uint64_t seed = given ? 0 : static_cast<uint64_t>(p.seeds[row]);
    const uint32_t position = given ? 0 : static_cast<uint32_t>(p.positions[row]);
    const uint32_t step = p.steps ? static_cast<uint32_t>(p.steps[row]) : p.step;
    Best best{-HUGE_VALF, 0};
    for (int first = 4 * lane; first < p.K; first += 4 * p.lanes) {
        Philox bits{};
        if (!given) bits = rng_block(seed, RngStream::remask, step, position, static_cast<uint32_t>(first / 4));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int j = first + i;
            if (j >= p.K) break;
            const float w = p.last >= 0.0f && j == p.K - 1 ? p.last : p.scale * weight[j];
            const float score = score_of(w, given ? given[j] : to_uniform(bits.x[i]), p.temperature);
            if (score > best.score) best = {score, j};
        }
    }
    return best;
}

__global__ void __launch_bounds__(kThreads) draw_rows(Candidates p) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / p.lanes) + threadIdx.x / p.lanes;
    const int lane = threadIdx.x % p.lanes;
    Best best{-HUGE_VALF, 0};
    if (row < p.R) best = best_of_lane(p, static_cast<int>(row), lane);
    for (int bits = p.lanes / 2; bits > 0; bits /= 2) {
        const Best other{__shfl_xor_sync(kAllLanes, best.score, bits), __shfl_xor_sync(kAllLanes, best.index, bits)};
        best = Better{}(best, other);
    }
    if (row < p.R && lane == 0) p.index[row] = best.index;
}

int lanes_of(int K) {
    int lanes = 1;
    while (lanes < 32 && 4 * lanes < K) lanes *= 2;
    return lanes;
}

template <class T>
const T* data_of(const View& v) {
    return v ? v.as<T>() : nullptr;
}

Status run(const Draw& p, const Stream& stream, Workspace) {
    const int R = static_cast<int>(p.weight.shape[0]), K = static_cast<int>(p.weight.shape[1]), lanes = lanes_of(K);
    const Candidates c{.weight = p.weight.as<float>(),
                       .uniforms = data_of<float>(p.uniforms),
                       .seeds = data_of<int64_t>(p.seeds),
                       .positions = data_of<int32_t>(p.positions),
                       .steps = data_of<int32_t>(p.steps),
                       .index = p.index.as<int32_t>(),
                       .weight_stride = p.weight.stride[0],
                       .uniforms_stride = p.uniforms ? p.uniforms.stride[0] : 0,
                       .R = R,
                       .K = K,
                       .lanes = lanes,
                       .step = static_cast<uint32_t>(p.step),
                       .temperature = p.temperature,
                       .scale = p.scale,
                       .last = p.last};
    const unsigned blocks = static_cast<unsigned>(ceil_div(R, kThreads / lanes));
    return launch("draw", stream, {.blocks = dim3(blocks), .threads = kThreads}, draw_rows, c);
}

}  // namespace

Op<Draw> draw_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
