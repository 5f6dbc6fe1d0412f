// Attention of the newest position over its cache: a block takes a part of the keys of one head of one sequence, a warp 32 of them.
#pragma once

#include "sequential_inverse.h"

namespace noema::cuda {

/// Every lane's 2 kBits values; those that lane and partner (kBits apart) hold of the same one are added, and each keeps half of them.
template <int kBits>
__device__ __forceinline__ void fold_lanes(float (&s)[32]) {
    const bool upper = (static_cast<int>(threadIdx.x) & kBits) != 0;
#pragma unroll
    for (int k = 0; k < kBits; ++k) {
        const float mine = upper ? s[k + kBits] : s[k], theirs = upper ? s[k] : s[k + kBits];
        s[k] = mine + __shfl_xor_sync(kAllLanes, theirs, kBits);
    }
    if constexpr (kBits > 1) fold_lanes<kBits / 2>(s);
}
/// Lane j gets the sum of all lanes' j-th values.
__device__ __forceinline__ float sum_across(float (&s)[32]) {
    fold_lanes<16>(s);
    return s[0];
}

template <bool kTensor>
__device__ __forceinline__ float as_factor(float x) {
    if constexpr (kTensor) return to_float(to_bf16(x));
    return x;
}

/// x (in memory) turned: pairs i and i + half. put(place, value) takes both, as factors.
template <bool kTensor, class Put>
__device__ __forceinline__ void turn_pair(const float* x, int i, int half, float2 angle, const Put& put) {
    const float low = __ldcg(x + i), high = __ldcg(x + i + half);
    put(i, as_factor<kTensor>(fmaf(low, angle.x, -(high * angle.y))));
    put(i + half, as_factor<kTensor>(fmaf(high, angle.x, low * angle.y)));
}

/// A head of a row of those treated, which is of sequence b.
struct HeadOfRow {
    int row, b, head;
};

/// Part `part` of the keys that it sees at position T - 1.
template <bool kTensor>
class NewestQuery {
 public:
    __device__ __forceinline__ NewestQuery(const SequentialArguments& p, const SequentialLayer& w, const HeadOfRow& of,
                                           int part, int T)
        : p_(p),
          of_(of),
          part_(part),
          first_(part * kSequentialPart),
          count_(min(kSequentialPart, T - first_)),
          row_(static_cast<int64_t>(p.H) * p.D) {
        const int64_t start = (static_cast<int64_t>(of.b) * p.S + first_) * row_ + static_cast<int64_t>(of.head) * p.D;
        keys_ = w.keys + start;
        values_ = w.values + start;
    }

    /// All threads of the block; `scratch` has room for 9 D + 16 floats. A barrier stands at the end.
    __device__ __forceinline__ void run(Shared<float> scratch, Shared<float2> angles, bool newest) const {
        enter(scratch, angles, newest);
        __syncthreads();
        const int warp = static_cast<int>(threadIdx.x) / 32, mine = min(32, count_ - 32 * warp);
        const Shared<float> values = scratch + (1 + warp) * p_.D, state = scratch + (1 + kSequentialWarps) * p_.D;
        if (mine > 0) weigh(scratch, warp, mine, values, state);
        __syncthreads();
        combine(scratch + p_.D, state);
        __syncthreads();
    }

 private:
    /// The query turned; the newest key and value go where they belong.
    __device__ __forceinline__ void enter(Shared<float> query, Shared<float2> angles, bool newest) const {
        const int half = p_.D / 2, C = p_.C, D = p_.D;
        const float* q = p_.qkv + static_cast<int64_t>(of_.row) * 3 * C + static_cast<int64_t>(of_.head) * D;
        const int64_t last = (count_ - 1) * row_;
        for (int i = static_cast<int>(threadIdx.x); i < half; i += kSequentialThreads) {
            turn_pair<kTensor>(q, i, half, angles[i], [&](int at, float x) { query[at] = x; });
            if (newest) turn_pair<kTensor>(q + C, i, half, angles[i], [&](int at, float x) { keys_[last + at] = x; });
        }
        for (int i = static_cast<int>(threadIdx.x); newest && i < D; i += kSequentialThreads)
            values_[last + i] = as_factor<kTensor>(__ldcg(q + 2 * C + i));
    }

    /// A warp's keys, one per lane, and what their values come to.
    __device__ __forceinline__ void weigh(Shared<float> query, int warp, int count, Shared<float> to,
                                          Shared<float> state) const {
        const int lane = static_cast<int>(threadIdx.x) % 32, D = p_.D;
        const float *keys = keys_ + 32 * warp * row_, *values = values_ + 32 * warp * row_;
        float scores[32] = {};
        for (int i = lane; i - lane < D; i += 32) {
            const float q = i < D ? static_cast<float>(query[i]) : 0.0f;
#pragma unroll
            for (int j = 0; j < 32; ++j)
                if (i < D && j < count) scores[j] = fmaf(q, __ldcg(keys + j * row_ + i), scores[j]);
        }
        const float sum = sum_across(scores), score = lane < count ? sum * p_.scale : -INFINITY;
        const float most = warp_reduce(score, Max{}), weight = fast_exp2(score - most),
                    all = warp_reduce(weight, Sum{});
        const float own = as_factor<kTensor>(weight);
        for (int i = lane; i - lane < D; i += 32) {
            float value = 0;
#pragma unroll 16
            for (int j = 0; j < 32; ++j) {
                const float w = __shfl_sync(kAllLanes, own, j);
                if (i < D && j < count) value = fmaf(w, __ldcg(values + j * row_ + i), value);
            }
            if (i < D) to[i] = value;
        }
        if (lane == 0) state[warp] = most, state[kSequentialWarps + warp] = all;
    }

    __device__ __forceinline__ void combine(Shared<float> values, Shared<float> state) const {
        const int warps = (count_ + 31) / 32, D = p_.D;
        float most = -INFINITY, all = 0;
        for (int w = 0; w < warps; ++w) most = fmaxf(most, state[w]);
        float* to = p_.attended + ((static_cast<int64_t>(of_.row) * p_.H + of_.head) * p_.parts + part_) * (D + 2);
        for (int i = static_cast<int>(threadIdx.x); i < D; i += kSequentialThreads) {
            float sum = 0;
            for (int w = 0; w < warps; ++w)
                sum = fmaf(values[w * D + i], fast_exp2(static_cast<float>(state[w]) - most), sum);
            to[i] = sum;
        }
        if (threadIdx.x != 0) return;
        for (int w = 0; w < warps; ++w)
            all = fmaf(state[kSequentialWarps + w], fast_exp2(static_cast<float>(state[w]) - most), all);
        to[D] = most;
        to[D + 1] = all;
    }

    const SequentialArguments& p_;
    const HeadOfRow of_;
    const int part_, first_, count_;
    const int64_t row_;
    float *keys_, *values_;
};

/// Scalar i of a head's output: its parts together, four at a time.
__device__ __forceinline__ float attended_scalar(const float* parts, int count, int D, int i) {
    constexpr int kAtOnce = 4;
    float most = -INFINITY, sum = 0, all = 0;
    for (int k = 0; k < count; k += kAtOnce) {
        float value[kAtOnce], own[kAtOnce], weight[kAtOnce], before = most;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            const float* part = parts + min(k + j, count - 1) * (D + 2);
            value[j] = __ldcg(part + i), own[j] = __ldcg(part + D), weight[j] = __ldcg(part + D + 1);
            most = fmaxf(most, own[j]);
        }
        const float falling = fast_exp2(before - most);
        sum *= falling, all *= falling;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            const float factor = k + j < count ? fast_exp2(own[j] - most) : 0.0f;
            sum = fmaf(value[j], factor, sum);
            all = fmaf(weight[j], factor, all);
        }
    }
    return sum / all;
}

}  // namespace noema::cuda
