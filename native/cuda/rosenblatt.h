// What the kernels of mixture_rosenblatt share: how many blocks take tokens, and a token's scalars as its components' gradients need them.
#pragma once

#include "noema/arena.h"
#include "noema/ops/mixture_rosenblatt.h"
#include "posterior.h"

namespace noema::cuda {

/// Blocks that take one token after the other. One of 512 threads for every multiprocessor of a large GPU, with lists of 8 bytes a
/// component each; a warp per token where components are few.
struct TokenBlocks {
    static constexpr int kWide = 512, kNarrow = 32;  // threads
    static constexpr int64_t kNarrowComponents = 1024;

    static int64_t count(int64_t R, int64_t K) {
        const int64_t most = K <= kNarrowComponents ? 4224 : 132;
        return R < most ? R : most;
    }
    static int64_t threads(int64_t K) { return K <= kNarrowComponents ? kNarrow : kWide; }
    /// Components of a block's list.
    static int64_t length(int64_t K) {
        const int64_t warps = threads(K) / 32;
        return warps * segment_of(K, warps);
    }
    /// f(threads) for K components.
    template <class F>
    static Status with_threads(int64_t K, const F& f) {
        return K <= kNarrowComponents ? f(std::integral_constant<int, kNarrow>{})
                                      : f(std::integral_constant<int, kWide>{});
    }
};

/// The lists of all blocks.
template <class Real>
struct TokenLists {
    Real* log_weight;  // [blocks, length]
    int32_t* index;
    int64_t length;

    static size_t bytes(int64_t R, int64_t K) {
        const int64_t n = TokenBlocks::count(R, K) * TokenBlocks::length(K);
        return workspace_bytes<Real>(n) + workspace_bytes<int32_t>(n);
    }
    void take(int64_t R, int64_t K, Workspace& w) {
        length = TokenBlocks::length(K);
        log_weight = w.take<Real>(TokenBlocks::count(R, K) * length);
        index = w.take<int32_t>(TokenBlocks::count(R, K) * length);
    }
    /// This block's, for tokens of d scalars.
    __device__ __forceinline__ PosteriorMemory<Real> mine(int d) const {
        return {log_weight + blockIdx.x * length, index + blockIdx.x * length, d};
    }
};

/// What backward needs of a token, [kArrays, d + 1] and some numbers. A scalar's gradient by a component's log weight is share (part of the
/// smaller tail) - weight (weight), by its distance bell (weight exp(-distance²/2)).
struct TokenInfo {
    enum Array { most, reach, share, weight, bell, side, exponent, kArrays };
    enum Number { by_prior, by_last, broken, kNumbers };

    float* data;
    int64_t d;

    static int64_t floats(int64_t d) { return kArrays * (d + 1) + kNumbers; }
    __device__ __forceinline__ TokenInfo of(int64_t r) const { return {data + r * (kArrays * (d + 1) + kNumbers), d}; }
    __device__ __forceinline__ float& at(Array a, int64_t i) const { return data[a * (d + 1) + i]; }
    __device__ __forceinline__ float& number(Number n) const { return data[kArrays * (d + 1) + n]; }
};

/// A pass over tokens, forward or the first of backward; what is null is not wanted.
struct Tokens {
    ComponentTable table;
    const float *z, *logits, *d_u, *d_log_density, *d_log_det;
    float *u, *log_density, *log_det;
    TokenInfo info;
    TokenLists<float> lists;
    int64_t z_stride, logits_stride, u_stride, d_u_stride, R;
    double grid;  // of u
};
Status pass_tokens(const Tokens& tokens, const Stream& stream);

/// Forward of wide states (mixture_rosenblatt_wide.cu).
size_t wide_bytes(const MixtureRosenblatt& p);
Status pass_wide_tokens(const MixtureRosenblatt& p, const ComponentTable& table, const Stream& stream, Workspace w);

}  // namespace noema::cuda
