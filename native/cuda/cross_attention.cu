// cross_attention: keys, then values in their place. A token's row is read once and its result written once, which at M 8 is
// what the time goes to: per token and head of D 64, 512 bytes and 1024 multiply-adds.
#include "cross_attention.h"

#include "cuda.h"

namespace noema::cuda {

namespace {

struct Reading {
    CrossAttentionSizes n;
    Heads q, k, v, out;
    float scale2;  // scale log2 e: of the exponent of 2
};

template <int kQuads>
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
}

Status run(const CrossAttention& a, const Stream& stream, Workspace) {
    const Reading p{{a.q, a.k}, heads_of(a.q), heads_of(a.k), heads_of(a.v), heads_of(a.out), a.scale * kLog2E};
    return with_latent_quads(p.n.D, [&](auto quads) {
        constexpr int kQuads = decltype(quads)::value;
        const int values = p.n.padded_M() * kLatentLanes * kQuads * 4 + kTokens * p.n.weight_stride();
        const Grid grid{.blocks = dim3(static_cast<unsigned>(p.n.blocks())),
                        .threads = kLatentThreads,
                        .shared_bytes = sizeof(float) * static_cast<size_t>(values)};
        return launch("cross_attention", stream, grid, cross_attention_tokens<kQuads>, p);
    });
}

}  // namespace

Op<CrossAttention> cross_attention_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
