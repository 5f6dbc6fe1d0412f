// cross_attention: a task takes a chunk of a sequence's tokens past the packed latents of all heads.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cross_attention.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/cross_attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {
namespace {

void read_latents(const TokenRows& q, const PackedLatents& keys, const PackedLatents& values, float* weights,
                  float* out, int64_t out_stride) {
    dots_of(q, keys, weights);
    softmax_block(weights, keys.M, q.count);
    mix_latents(weights, values, out, out_stride, q.count);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(read_latents);

namespace {

struct Scratch {
    float *keys, *values, *weights;

    template <class Take>
    void lay_out(const CrossAttentionShape& s, const Take& take) {
        take(keys, s.heads());
        take(values, s.heads());
        take(weights, s.padded_M() * kBlockTokens);
    }
};

/// A block's weights as they lie in scratch, [M][kBlockTokens], to where they were asked for. (Never inlined: with this in its
/// midst a pass that nobody asks took up to a tenth longer.)
[[gnu::noinline, gnu::cold]] void hand_out(const float* weights, const View& to, int64_t b, int64_t first, int64_t h,
                                           int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
        float* row = to.at<float>(b, first + t, h);
        for (int64_t m = 0; m < to.shape[3]; ++m) row[m] = weights[m * kBlockTokens + t];
    }
}

void read_chunk(const CrossAttention& p, const CrossAttentionShape& s, const Scratch& x, int64_t index) {
    const int64_t b = index / s.chunks, first = index % s.chunks * kChunkTokens;
    pack_latents(p.k, b, p.scale, s, x.keys);
    pack_latents(p.v, b, 1.0f, s, x.values);
    const int64_t last = std::min(first + kChunkTokens, s.T);
    for (int64_t t = first; t < last; t += kBlockTokens)
        for (int64_t h = 0; h < s.H; ++h) {
            const PackedLatents keys{x.keys + h * s.head(), s.M, s.D, s.padded_D()};
            const PackedLatents values{x.values + h * s.head(), s.M, s.D, s.padded_D()};
            fetch_next_block(p.q, b, t, h);
            const TokenRows q = token_rows(p.q, b, t, h, std::min(kBlockTokens, last - t));
            HWY_DYNAMIC_DISPATCH(read_latents)
            (q, keys, values, x.weights, p.out.at<float>(b, t, h), p.out.stride[1]);
            if (p.weights) hand_out(x.weights, p.weights, b, t, h, q.count);
        }
}

size_t workspace(const CrossAttention& p, const Stream& stream) {
    return scratch_bytes<Scratch>(CrossAttentionShape(p.q, p.k)) * stream.threads;
}

Status run(const CrossAttention& p, const Stream& stream, Workspace w) {
    const CrossAttentionShape shape(p.q, p.k);
    const size_t bytes = scratch_bytes<Scratch>(shape);
    parallel_for(stream, shape.B * shape.chunks, [&](int64_t index, int worker) {
        read_chunk(p, shape, cut_scratch<Scratch>(shape, {w.data + worker * bytes, bytes}), index);
    });
    return {};
}

}  // namespace

Op<CrossAttention> cross_attention_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
