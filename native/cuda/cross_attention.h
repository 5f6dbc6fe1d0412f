// What the kernels of cross-attention share. A block takes kTokens tokens of one head past its latents, which wait in shared
// memory; eight lanes share a token, two tokens at a time, so that 16 bytes of a latent feed eight multiply-adds. Scores are
// summed over the eight lanes such that each ends with the scores of every eighth latent, and softmax is theirs alone.
//
// Shared memory: latents [M up to 8 n][D up to 32, 64, 128 or 256], then weights [kTokens][weight_stride]: the four tokens of a
// warp write to different banks. M 8, D 64: 4 KB forward, 6 KB backward; at most 81 and 98 KB.
#pragma once

#include "attention_scalar.h"
#include "noema/ops/cross_attention.h"

namespace noema::cuda {

constexpr int kLatentLanes = 8, kLatentThreads = 128, kTokens = 64;
/// Tokens that a block reads at once, twice over: each group of lanes reads two, this far apart.
constexpr int kTokenGroups = kLatentThreads / kLatentLanes;
static_assert(kTokens % (2 * kTokenGroups) == 0);

struct CrossAttentionSizes {
    int B, T, H, D, M, chunks;

    CrossAttentionSizes(const View& q, const View& k)
        : B(static_cast<int>(q.shape[0])),
          T(static_cast<int>(q.shape[1])),
          H(static_cast<int>(q.shape[2])),
          D(static_cast<int>(q.shape[3])),
          M(static_cast<int>(k.shape[1])),
          chunks(static_cast<int>(ceil_div(q.shape[1], kTokens))) {}
    __host__ __device__ int padded_M() const { return (M + 7) / 8 * 8; }
    /// Odd multiples of 8; at the most latents 4 over an even one, so that backward's 98 KB suit every GPU.
    __host__ __device__ int weight_stride() const {
        return padded_M() + (padded_M() / 8 % 2 ? 0 : padded_M() < kMostLatents ? 8 : 4);
    }
    int64_t blocks() const { return int64_t{B} * chunks * H; }
};

/// What a block works on. Neighbouring blocks are heads of the same tokens, whose rows are neighbours in memory.
struct TokenBlock {
    int b, chunk, h, first;

    __device__ __forceinline__ explicit TokenBlock(const CrossAttentionSizes& n) {
        const unsigned index = blockIdx.x;
        h = static_cast<int>(index % n.H);
        chunk = static_cast<int>(index / n.H % n.chunks);
        b = static_cast<int>(index / n.H / n.chunks);
        first = chunk * kTokens;
    }
};

__device__ __forceinline__ int latent_lane() {
    return static_cast<int>(threadIdx.x) % kLatentLanes;
}
__device__ __forceinline__ int token_group() {
    return static_cast<int>(threadIdx.x) / kLatentLanes;
}

/// A lane's quads of two tokens: quad q begins at column 4 (lane + 8 q).
template <int kQuads>
struct TokenPair {
    float4 quad[2][kQuads];

    static __device__ __forceinline__ int column(int q) { return 4 * (latent_lane() + kLatentLanes * q); }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int q = 0; q < kQuads; ++q) quad[r][q] = make_float4(0, 0, 0, 0);
    }
    /// Tokens `first` and `first` + kTokenGroups; zeros behind the last.
    __device__ __forceinline__ void load(const Heads& from, const TokenBlock& at, int first,
                                         const CrossAttentionSizes& n) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int t = first + r * kTokenGroups;
            const float* row = from.row(at.b, t < n.T ? t : 0, at.h);
#pragma unroll
            for (int q = 0; q < kQuads; ++q) quad[r][q] = load_quad(row, column(q), n.D, from.quads, t < n.T);
        }
    }
    __device__ __forceinline__ void store(const Heads& to, const TokenBlock& at, int first,
                                          const CrossAttentionSizes& n, float factor) const {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int t = first + r * kTokenGroups;
            if (t >= n.T) continue;
            float* row = to.row(at.b, t, at.h);
#pragma unroll
            for (int q = 0; q < kQuads; ++q) {
                const float4 x = quad[r][q];
                store_quad(row, column(q), n.D, to.quads,
                           make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor));
            }
        }
    }
};

/// Fills the tile with one head's latents; zeros around them. Barriers stand at both ends.
template <int kQuads>
__device__ __forceinline__ void load_latents(Shared<float> tile, const Heads& from, const TokenBlock& at,
                                             const CrossAttentionSizes& n) {
    __syncthreads();
    constexpr int kRow = kLatentLanes * kQuads;  // quads
    for (int i = static_cast<int>(threadIdx.x); i < n.padded_M() * kRow; i += kLatentThreads) {
        const int m = i / kRow;
        const float* row = from.row(at.b, m < n.M ? m : 0, at.h);
        tile.as<float4>()[i] = load_quad(row, i % kRow * 4, n.D, from.quads, m < n.M);
    }
    __syncthreads();
}

__device__ __forceinline__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// Eight values of each of eight lanes, summed over the lanes: lane i gets the sum of value i.
__device__ __forceinline__ float sum_across(const float (&value)[8]) {
    const int lane = latent_lane();
    float four[4], two[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float keep = lane & 4 ? value[i + 4] : value[i], give = lane & 4 ? value[i] : value[i + 4];
        four[i] = keep + __shfl_xor_sync(kAllLanes, give, 4);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float keep = lane & 2 ? four[i + 2] : four[i], give = lane & 2 ? four[i] : four[i + 2];
        two[i] = keep + __shfl_xor_sync(kAllLanes, give, 2);
    }
    return (lane & 1 ? two[1] : two[0]) + __shfl_xor_sync(kAllLanes, lane & 1 ? two[0] : two[1], 1);
}

/// to[r][m] = token r . latent m; `to` begins at the first token's row, this lane writes its latents alone.
template <int kQuads>
__device__ __forceinline__ void token_products(const TokenPair<kQuads>& x, Shared<float> latents, Shared<float> to,
                                               const CrossAttentionSizes& n) {
    constexpr int kRow = kLatentLanes * kQuads;
    const Shared<float4> mine = latents.as<float4>() + latent_lane();
    for (int first = 0; first < n.padded_M(); first += 8) {
        float sum[2][8] = {};
#pragma unroll
        for (int m = 0; m < 8; ++m)
#pragma unroll
            for (int q = 0; q < kQuads; ++q) {
                const float4 latent = mine[(first + m) * kRow + kLatentLanes * q];
#pragma unroll
                for (int r = 0; r < 2; ++r) sum[r][m] = dot(x.quad[r][q], latent, sum[r][m]);
            }
#pragma unroll
        for (int r = 0; r < 2; ++r)
            to[r * kTokenGroups * n.weight_stride() + first + latent_lane()] = sum_across(sum[r]);
    }
}

/// A token's scores become weights; those of latents that are not there become 0. Each lane has its own to read and write.
__device__ __forceinline__ void softmax_token(Shared<float> scores, const CrossAttentionSizes& n, float scale2) {
    float most = -INFINITY, total = 0;
    for (int m = latent_lane(); m < n.M; m += kLatentLanes) most = fmaxf(most, scores[m]);
#pragma unroll
    for (int bits = kLatentLanes / 2; bits > 0; bits /= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, bits));
    for (int m = latent_lane(); m < n.M; m += kLatentLanes) {
        const float score = scores[m], weight = fast_exp2((score - most) * scale2);
        scores[m] = weight;
        total += weight;
    }
    const float factor = 1.0f / warp_reduce(total, Sum{}, kLatentLanes);
    for (int m = latent_lane(); m < n.padded_M(); m += kLatentLanes) {
        const float weight = m < n.M ? static_cast<float>(scores[m]) * factor : 0.0f;
        scores[m] = weight;
    }
}

/// acc[r] = sum over m of weights[r][m] latent m.
template <int kQuads>
__device__ __forceinline__ void mix_latents(TokenPair<kQuads>& acc, Shared<float> weights, Shared<float> latents,
                                            const CrossAttentionSizes& n) {
    constexpr int kRow = kLatentLanes * kQuads;
    const Shared<float4> mine = latents.as<float4>() + latent_lane(), of = weights.as<float4>();
    acc.clear();
    for (int m = 0; m < n.padded_M(); m += 4) {
        const float4 w[2] = {of[m / 4], of[(kTokenGroups * n.weight_stride() + m) / 4]};
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
            const int at = m * kRow + kLatentLanes * q;
            const float4 l0 = mine[at], l1 = mine[at + kRow], l2 = mine[at + 2 * kRow], l3 = mine[at + 3 * kRow];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                add_scaled(acc.quad[r][q], w[r].x, l0);
                add_scaled(acc.quad[r][q], w[r].y, l1);
                add_scaled(acc.quad[r][q], w[r].z, l2);
                add_scaled(acc.quad[r][q], w[r].w, l3);
            }
        }
    }
}

/// f(quads) with the constant number of quads that a lane has of a row of D.
template <class F>
Status with_latent_quads(int D, const F& f) {
    if (D <= 32) return f(std::integral_constant<int, 1>{});
    if (D <= 64) return f(std::integral_constant<int, 2>{});
    if (D <= 128) return f(std::integral_constant<int, 4>{});
    return f(std::integral_constant<int, 8>{});
}

}  // namespace noema::cuda
