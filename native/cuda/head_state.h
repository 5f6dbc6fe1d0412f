// HeadState on the device. Every product that is added to something is written as fmaf: whether a compiler fuses the two would
// differ from kernel to kernel, and which kernel forms a row depends on how many rows there are.
#pragma once

#include <cmath>

#include "common/reduce.h"
#include "head.h"

namespace noema::cuda {

constexpr float kLog2e = 1.44269504088896341f;
constexpr int32_t kNobody = INT32_MAX;

__device__ __forceinline__ HeadState empty_state() {
    return {-HUGE_VALF, 0, 0, -HUGE_VALF, -HUGE_VALF, 0, kNobody, kNobody};
}

/// exp(x) for x <= 0.
__device__ __forceinline__ float exp_of(float x) {
    return fast_exp2(x * kLog2e);
}

__device__ __forceinline__ bool is_broken(const HeadState& s) {
    return s.max == HUGE_VALF || s.max == -HUGE_VALF;
}

/// max - to, finite: neither -inf - -inf nor an infinity times zero may come of it.
__device__ __forceinline__ float moved(float max, float to) {
    return max == to ? 0.0f : fmaxf(max - to, -3e38f);
}

/// Of equal logits or scores the lower id's goes first, so the order of merging decides nothing but roundings.
__device__ __forceinline__ HeadState merged(const HeadState& a, const HeadState& b, float beta) {
    HeadState r;
    r.max = fmaxf(a.max, b.max);
    r.best = b.max > a.max || (b.max == a.max && b.best < a.best) ? b.best : a.best;
    r.second = fmaxf(fminf(a.max, b.max), fmaxf(a.second, b.second));
    const float shift_a = moved(a.max, r.max), shift_b = moved(b.max, r.max);
    const float factor_a = exp_of(shift_a), factor_b = exp_of(shift_b);
    r.sum = fmaf(factor_a, a.sum, factor_b * b.sum);
    // A sum of e (l - max) loses sum * shift when max moves.
    const float weighted_a = factor_a > 0 ? fmaf(shift_a, a.sum, a.weighted) : 0;
    const float weighted_b = factor_b > 0 ? fmaf(shift_b, b.sum, b.weighted) : 0;
    r.weighted = fmaf(factor_a, weighted_a, factor_b * weighted_b);
    const float score_a = fmaf(shift_a, beta, a.score), score_b = fmaf(shift_b, beta, b.score);
    const bool second = score_b > score_a || (score_b == score_a && b.chosen < a.chosen);
    r.score = second ? score_b : score_a;
    r.chosen = second ? b.chosen : a.chosen;
    r.chosen_logit = second ? b.chosen_logit : a.chosen_logit;
    return r;
}

__device__ __forceinline__ float4 first_half(const HeadState& s) {
    return make_float4(s.max, s.sum, s.weighted, s.second);
}
__device__ __forceinline__ float4 second_half(const HeadState& s) {
    return make_float4(s.score, s.chosen_logit, __int_as_float(s.chosen), __int_as_float(s.best));
}
__device__ __forceinline__ HeadState state_of(const float4& a, const float4& b) {
    return {a.x, a.y, a.z, a.w, b.x, b.y, __float_as_int(b.z), __float_as_int(b.w)};
}
__device__ __forceinline__ void write_state(HeadState* at, const HeadState& s) {
    reinterpret_cast<float4*>(at)[0] = first_half(s);
    reinterpret_cast<float4*>(at)[1] = second_half(s);
}
__device__ __forceinline__ HeadState read_state(const HeadState* at) {
    return state_of(reinterpret_cast<const float4*>(at)[0], reinterpret_cast<const float4*>(at)[1]);
}

/// A row's own random numbers.
struct RowSeed {
    uint64_t seed;
    uint32_t step, position;
};
__device__ __forceinline__ RowSeed row_seed(const Noise& n, int row) {
    return {static_cast<uint64_t>(n.seeds[row]), n.steps ? static_cast<uint32_t>(n.steps[row]) : n.step,
            static_cast<uint32_t>(n.positions[row])};
}
/// Of the tokens 4 block .. 4 block + 3.
__device__ __forceinline__ Philox token_bits(const RowSeed& s, int block) {
    return rng_block(s.seed, RngStream::token, s.step, s.position, static_cast<uint32_t>(block));
}
__device__ __forceinline__ float gumbel_of(uint32_t bits) {
    return -logf(-logf(to_uniform(bits)));
}

}  // namespace noema::cuda
