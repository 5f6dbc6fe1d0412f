// cross_attention_backward. A block computes its tokens' weights anew, d_q, and what they add to d_k and d_v, which goes to a
// place of its own; those of all blocks of a sequence are added in order after.
#include "cross_attention.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Gradients {
    CrossAttentionSizes n;
    Heads q, k, v, d_out, d_q, d_k, d_v;
    bool wants_q, wants_k, wants_v;
    float scale, scale2;
    float* parts;  // [B][H][chunks][d_k, d_v as far as wanted][M up][width], or null
};

/// Turns dP in `slopes` into P (dP - sum(P dP)).
__device__ __forceinline__ void softmax_slopes(Shared<float> weights, Shared<float> slopes,
                                               const CrossAttentionSizes& n) {
    float delta = 0;
    for (int m = latent_lane(); m < n.M; m += kLatentLanes)
        delta = fmaf(static_cast<float>(weights[m]), static_cast<float>(slopes[m]), delta);
    delta = warp_reduce(delta, Sum{}, kLatentLanes);
    for (int m = latent_lane(); m < n.padded_M(); m += kLatentLanes) {
        const float slope = static_cast<float>(weights[m]) * (static_cast<float>(slopes[m]) - delta);
        slopes[m] = slope;
    }
}

/// Four latents' sums over the block's tokens of weight times row, at one quad of columns, go to `part`.
template <int kWidth>
__device__ __forceinline__ void sum_tokens(const Heads& rows, Shared<float> weights, const TokenBlock& at, int column,
                                           const CrossAttentionSizes& n, float* part) {
    const Shared<float4> of = weights.as<float4>();
    const int stride = n.weight_stride() / 4, count = min(kTokens, n.T - at.first);
    float4 acc[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[i] = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int t = 0; t < count; ++t) {
        const float4 w = of[t * stride];
        const float4 x = load_quad(rows.row(at.b, at.first + t, at.h), column, n.D, rows.quads, true);
        add_scaled(acc[0], w.x, x);
        add_scaled(acc[1], w.y, x);
        add_scaled(acc[2], w.z, x);
        add_scaled(acc[3], w.w, x);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) *reinterpret_cast<float4*>(part + i * kWidth) = acc[i];
}

template <int kQuads>
__device__ __forceinline__ void sum_latents(const Gradients& p, const TokenBlock& at, Shared<float> weights,
                                            Shared<float> slopes) {
    constexpr int kRow = kLatentLanes * kQuads, kWidth = 4 * kRow;
    const int units = p.n.padded_M() / 4 * kRow, tensors = p.wants_k + p.wants_v;
    const int64_t block = (int64_t{at.b} * p.n.H + at.h) * p.n.chunks + at.chunk;
    for (int i = static_cast<int>(threadIdx.x); i < tensors * units; i += kLatentThreads) {
        const int tensor = i / units, m = i % units / kRow * 4, column = i % kRow * 4;
        const bool of_k = p.wants_k && tensor == 0;
        float* part = p.parts + ((block * tensors + tensor) * p.n.padded_M() + m) * kWidth + column;
        sum_tokens<kWidth>(of_k ? p.q : p.d_out, (of_k ? slopes : weights) + m, at, column, p.n, part);
    }
}

// The least blocks per multiprocessor allow 102 and 170 registers; left to itself the compiler spills two for a seventh block.
template <int kQuads>
__global__ void __launch_bounds__(kLatentThreads, kQuads <= 2 ? 5 : 3) cross_attention_gradients(Gradients p) {
    const TokenBlock at(p.n);
    const int latent_values = p.n.padded_M() * kLatentLanes * kQuads * 4, stride = p.n.weight_stride();
    const Shared<float> latents = dynamic_shared<float>(0, latent_values);
    const Shared<float> weights = dynamic_shared<float>(4 * latent_values, kTokens * stride);
    const Shared<float> slopes = dynamic_shared<float>(4 * (latent_values + kTokens * stride), kTokens * stride);
    TokenPair<kQuads> x;
    load_latents<kQuads>(latents, p.v, at, p.n);
    for (int t = token_group(); t < kTokens; t += 2 * kTokenGroups) {
        x.load(p.d_out, at, at.first + t, p.n);
        token_products(x, latents, slopes + t * stride, p.n);
    }
    load_latents<kQuads>(latents, p.k, at, p.n);
    for (int t = token_group(); t < kTokens; t += 2 * kTokenGroups) {
        x.load(p.q, at, at.first + t, p.n);
        token_products(x, latents, weights + t * stride, p.n);
        for (int r = 0; r < 2; ++r) {
            const int row = (t + r * kTokenGroups) * stride;
            softmax_token(weights + row, p.n, p.scale2);
            softmax_slopes(weights + row, slopes + row, p.n);
        }
        __syncwarp();
        if (!p.wants_q) continue;
        mix_latents(x, slopes + t * stride, latents, p.n);
        x.store(p.d_q, at, at.first + t, p.n, p.scale);
    }
    __syncthreads();
    if (p.parts) sum_latents<kQuads>(p, at, weights, slopes);
}

struct Totals {
    CrossAttentionSizes n;
    Heads to;
    const float* parts;  // the first chunk's
    int64_t chunk, head;
    int width;
    float factor;
};

constexpr int kTotalThreads = 256;

__global__ void __launch_bounds__(kTotalThreads) cross_attention_totals(Totals p) {
    const int64_t item = int64_t{blockIdx.x} * kTotalThreads + threadIdx.x;
    if (item >= int64_t{p.n.B} * p.n.H * p.n.M * p.n.D) return;
    const int c = static_cast<int>(item % p.n.D), m = static_cast<int>(item / p.n.D % p.n.M);
    const int64_t head = item / p.n.D / p.n.M;
    const float* from = p.parts + head * p.head + int64_t{m} * p.width + c;
    float sum = 0;
    for (int i = 0; i < p.n.chunks; ++i) sum += from[i * p.chunk];
    const int b = static_cast<int>(head / p.n.H), h = static_cast<int>(head % p.n.H);
    p.to.row(b, m, h)[c] = sum * p.factor;
}

int width_of(int D) {
    return D <= 32 ? 32 : D <= 64 ? 64 : D <= 128 ? 128 : 256;
}

int64_t part_values(const CrossAttentionSizes& n, int tensors) {
    return n.blocks() * tensors * n.padded_M() * width_of(n.D);
}

size_t workspace(const CrossAttentionBackward& p, const Stream&) {
    const int tensors = !p.d_k.empty() + !p.d_v.empty();
    return tensors ? workspace_bytes<float>(part_values(CrossAttentionSizes(p.q, p.k), tensors)) : 0;
}

Status add_chunks(const Gradients& p, int tensor, const Heads& to, float factor, const Stream& stream) {
    const int tensors = p.wants_k + p.wants_v, width = width_of(p.n.D);
    const int64_t tile = int64_t{p.n.padded_M()} * width;
    const Totals t{p.n, to, p.parts + tensor * tile, tensors * tile, p.n.chunks * tensors * tile, width, factor};
    const int64_t items = int64_t{p.n.B} * p.n.H * p.n.M * p.n.D;
    return launch("cross_attention_backward: sums", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(items, kTotalThreads))), .threads = kTotalThreads},
                  cross_attention_totals, t);
}

Heads optional_heads(const View& v) {
    return v ? heads_of(v) : Heads{};
}

Status run(const CrossAttentionBackward& a, const Stream& stream, Workspace w) {
    Gradients p{.n = {a.q, a.k},
                .q = heads_of(a.q),
                .k = heads_of(a.k),
                .v = heads_of(a.v),
                .d_out = heads_of(a.d_out),
                .d_q = optional_heads(a.d_q),
                .d_k = optional_heads(a.d_k),
                .d_v = optional_heads(a.d_v),
                .wants_q = !a.d_q.empty(),
                .wants_k = !a.d_k.empty(),
                .wants_v = !a.d_v.empty(),
                .scale = a.scale,
                .scale2 = a.scale * kLog2E,
                .parts = nullptr};
    const int tensors = p.wants_k + p.wants_v;
    if (tensors) p.parts = w.take<float>(part_values(p.n, tensors));
    NOEMA_TRY(with_latent_quads(p.n.D, [&](auto quads) {
        constexpr int kQuads = decltype(quads)::value;
        const int values = p.n.padded_M() * kLatentLanes * kQuads * 4 + 2 * kTokens * p.n.weight_stride();
        const Grid grid{.blocks = dim3(static_cast<unsigned>(p.n.blocks())),
                        .threads = kLatentThreads,
                        .shared_bytes = sizeof(float) * static_cast<size_t>(values)};
        return launch("cross_attention_backward", stream, grid, cross_attention_gradients<kQuads>, p);
    }));
    if (p.wants_k) NOEMA_TRY(add_chunks(p, 0, p.d_k, p.scale, stream));
    return p.wants_v ? add_chunks(p, p.wants_k, p.d_v, 1.0f, stream) : Status{};
}

}  // namespace

Op<CrossAttentionBackward> cross_attention_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
