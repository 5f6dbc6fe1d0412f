// What the kernels of mixture_rosenblatt share: how many blocks take tokens, and a token's scalars as its components' gradients need them.
#pragma once

#include "noema/arena.h"
#include "noema/ops/mixture_rosenblatt.h"
#include "posterior.h"

namespace noema::cuda {

/// Blocks that take one token after the other. One of 512 threads for every multiprocessor of a large GPU, with lists of 8 bytes a
/// component each; a warp per token where components are few.
using WideTeam = Team<512>;
using NarrowTeam = Team<32>;
constexpr int64_t kNarrowComponents = 1024;

struct TokenBlocks {
    static int64_t count(int64_t R, int64_t K) {
        const int64_t most = K <= kNarrowComponents ? 4224 : 132;
        return R < most ? R : most;
    }
    /// Components of a block's list.
    static int64_t length(int64_t K) {
        return K <= kNarrowComponents ? PosteriorMemory::length<NarrowTeam>(K) : PosteriorMemory::length<WideTeam>(K);
    }
    static int64_t threads(int64_t K) { return K <= kNarrowComponents ? NarrowTeam::kThreads : WideTeam::kThreads; }
    /// f(team type) for K components.
    template <class F>
    static Status with_team(int64_t K, const F& f) {
        return K <= kNarrowComponents ? f(static_cast<NarrowTeam*>(nullptr)) : f(static_cast<WideTeam*>(nullptr));
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
    float* log_weight;  // [blocks, length]
    int32_t* index;
    int64_t z_stride, logits_stride, u_stride, d_u_stride, R, length;

    static size_t bytes(int64_t R, int64_t K) {
        const int64_t n = TokenBlocks::count(R, K) * TokenBlocks::length(K);
        return workspace_bytes<float>(n) + workspace_bytes<int32_t>(n);
    }
    void take(Workspace& w) {
        const int64_t n = TokenBlocks::count(R, table.K()) * TokenBlocks::length(table.K());
        log_weight = w.take<float>(n);
        index = w.take<int32_t>(n);
        length = TokenBlocks::length(table.K());
    }
};
Status pass_tokens(const Tokens& tokens, const Stream& stream);

}  // namespace noema::cuda
