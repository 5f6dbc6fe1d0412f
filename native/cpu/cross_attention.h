// What forward and backward of cross-attention share: how tokens and latents are cut, and how a task packs its latents.
#pragma once

#include "cpu/tasks.h"
#include "noema/ops/cross_attention.h"

namespace noema::cpu {

/// Tokens that pass a head's latents together: their rows, all heads of C = 512 or so, stay in the second-level cache while
/// head after head is read.
constexpr int64_t kBlockTokens = 32;
/// Tokens of a task, and of a chunk of d_k's and d_v's sums.
constexpr int64_t kChunkTokens = 128;
/// Packed rows are whole vectors of the widest instruction set, and come in groups of four.
constexpr int64_t kLatentPad = 16, kLatentGroup = 4;

struct CrossAttentionShape {
    int64_t B, T, H, D, M, chunks;

    CrossAttentionShape(const View& q, const View& k)
        : B(q.shape[0]),
          T(q.shape[1]),
          H(q.shape[2]),
          D(q.shape[3]),
          M(k.shape[1]),
          chunks(ceil_div(T, kChunkTokens)) {}
    int64_t padded_D() const { return ceil_div(D, kLatentPad) * kLatentPad; }
    int64_t padded_M() const { return ceil_div(M, kLatentGroup) * kLatentGroup; }
    /// Packed values of one head, and of all.
    int64_t head() const { return padded_M() * padded_D(); }
    int64_t heads() const { return H * head(); }
};

/// The latents of one head: M rows, and zeros that make their number a multiple of kLatentGroup.
struct PackedLatents {
    const float* data;
    int64_t M, D, width;

    int64_t padded_M() const { return ceil_div(M, kLatentGroup) * kLatentGroup; }
    const float* row(int64_t m) const { return data + m * width; }
};

/// `count` rows of one head.
struct TokenRows {
    const float* data;
    int64_t stride, count;
};

inline TokenRows token_rows(const View& v, int64_t b, int64_t t, int64_t h, int64_t count) {
    return {v.at<float>(b, t, h), v.stride[1], count};
}

/// Asks for the rows of the block behind the one at t. A head's rows are short and lie far apart, which the processor's own
/// prefetchers follow badly: from memory a pass takes a tenth to a half longer without, from the caches a fifteenth less.
/// (Always inlined: GCC takes a call of what only prefetches for one without effect, and drops it.)
[[gnu::always_inline]] inline void fetch_next_block(const View& v, int64_t b, int64_t t, int64_t h) {
    constexpr int64_t kLine = 64 / sizeof(float);
    for (int64_t i = t + kBlockTokens; i < std::min(t + 2 * kBlockTokens, v.shape[1]); ++i)
        for (int64_t c = 0; c < v.shape[3]; c += kLine) __builtin_prefetch(v.at<float>(b, i, h) + c, 0, 2);
}

/// A block of one head's tokens, for backward. Absent results are null.
struct HeadBlock {
    TokenRows q, d_out;
    PackedLatents keys, values;  // keys times scale
    float *weights, *d_weights;
    float *d_q, *d_k, *d_v;  // d_k and d_v: sums so far, as latents lie
    int64_t d_q_stride;
};

/// k or v of sequence b times `factor`, head after head.
inline void pack_latents(const View& v, int64_t b, float factor, const CrossAttentionShape& s, float* to) {
    std::fill_n(to, s.heads(), 0.0f);
    for (int64_t h = 0; h < s.H; ++h)
        for (int64_t m = 0; m < s.M; ++m) {
            const float* row = v.at<float>(b, m, h);
            float* packed = to + h * s.head() + m * s.padded_D();
            for (int64_t c = 0; c < s.D; ++c) packed[c] = row[c] * factor;
        }
}

}  // namespace noema::cpu
