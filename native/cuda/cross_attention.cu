// cross_attention: keys, then values in their place. A token's row is read once and its result written once, which at M 8 is
// what the time goes to: per token and head of D 64, 512 bytes and 1024 multiply-adds.
#include "cross_attention.h"

#include "cuda.h"

namespace noema::cuda {

namespace {

struct Reading {
    CrossAttentionSizes n;
    Heads q, k, v, out;
    float scale2;   // scale log2 e: of the exponent of 2
    Heads weights;  // rows of M, where they are asked for
};

/// Weights to global memory, each lane those that it made.
__device__ __forceinline__ void hand_out(const Reading& p, const TokenBlock& at, Shared<float> weights) {
    for (int t = token_group(); t < kTokens && at.first + t < p.n.T; t += kTokenGroups) {
        const Shared<float> mine = weights + t * p.n.weight_stride();
        float* row = p.weights.row(at.b, at.first + t, at.h);
        for (int m = latent_lane(); m < p.n.M; m += kLatentLanes) row[m] = mine[m];
    }
}

/// Weights are told by a kernel of its own: the other one keeps its registers.
template <int kQuads, bool kTells>
__global__ void __launch_bounds__(kLatentThreads) cross_attention_tokens(Reading p) {
    const TokenBlock at(p.n);
    const int latent_values = p.n.padded_M() * kLatentLanes * kQuads * 4, stride = p.n.weight_stride();
    const Shared<float> latents = dynamic_shared<float>(0, latent_values);
    const Shared<float> weights = dynamic_shared<float>(4 * latent_values, kTokens * stride);
    TokenPair<kQuads> x;
    load_latents<kQuads>(latents, p.k, at, p.n);
    for (int t = token_group(); t < kTokens; t += 2 * kTokenGroups) {
        const Shared<float> mine = weights + t * stride;
        x.load(p.q, at, at.first + t, p.n);
        token_products(x, latents, mine, p.n);
        for (int r = 0; r < 2; ++r) softmax_token(mine + r * kTokenGroups * stride, p.n, p.scale2);
    }
    load_latents<kQuads>(latents, p.v, at, p.n);
    for (int t = token_group(); t < kTokens; t += 2 * kTokenGroups) {
        mix_latents(x, weights + t * stride, latents, p.n);
        x.store(p.out, at, at.first + t, p.n, 1.0f);
    }
    if constexpr (kTells) hand_out(p, at, weights);
}

Status run(const CrossAttention& a, const Stream& stream, Workspace) {
    const Reading p{.n = {a.q, a.k},
                    .q = heads_of(a.q),
                    .k = heads_of(a.k),
                    .v = heads_of(a.v),
                    .out = heads_of(a.out),
                    .scale2 = a.scale * kLog2E,
                    .weights = a.weights ? heads_of(a.weights) : Heads{}};
    return with_latent_quads(p.n.D, [&](auto quads) {
        constexpr int kQuads = decltype(quads)::value;
        const int values = p.n.padded_M() * kLatentLanes * kQuads * 4 + kTokens * p.n.weight_stride();
        const Grid grid{.blocks = dim3(static_cast<unsigned>(p.n.blocks())),
                        .threads = kLatentThreads,
                        .shared_bytes = sizeof(float) * static_cast<size_t>(values)};
        const auto kernel = a.weights ? cross_attention_tokens<kQuads, true> : cross_attention_tokens<kQuads, false>;
        return launch("cross_attention", stream, grid, kernel, p);
    });
}

}  // namespace

Op<CrossAttention> cross_attention_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
