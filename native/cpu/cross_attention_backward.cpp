// cross_attention_backward: a task takes a chunk of a sequence's tokens past the packed latents of all heads; what the chunk
// adds to d_k and d_v stays apart until all chunks are there, and is then added in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/cross_attention_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/cross_attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {
namespace {

void head_gradients(const HeadBlock& x) {
    const int64_t M = x.keys.M, count = x.q.count;
    dots_of(x.q, x.keys, x.weights);
    softmax_block(x.weights, M, count);
    if (x.d_v) gather_tokens(x.weights, x.d_out, x.values, x.d_v);
    if (!x.d_q && !x.d_k) return;
    dots_of(x.d_out, x.values, x.d_weights);
    softmax_backward_block(x.weights, x.d_weights, M, count);
    if (x.d_q) mix_latents(x.d_weights, x.keys, x.d_q, x.d_q_stride, count);
    if (x.d_k) gather_tokens(x.d_weights, x.q, x.keys, x.d_k);
}

/// to = factor times the sum of n parts, `stride` apart.
void sum_parts(const float* parts, int64_t n, int64_t stride, int64_t D, float factor, float* to) {
    for_each_vector(D, [&](auto load, auto store, int64_t) HWY_ATTR {
        VF sum = hn::Zero(DF());
        for (int64_t i = 0; i < n; ++i) sum = hn::Add(sum, load(parts + i * stride));
        store(hn::Mul(sum, hn::Set(DF(), factor)), to);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(head_gradients);
HWY_EXPORT(sum_parts);

namespace {

struct Scratch {
    float *keys, *values, *weights, *d_weights;

    template <class Take>
    void lay_out(const CrossAttentionShape& s, const Take& take) {
        take(keys, s.heads());
        take(values, s.heads());
        take(weights, s.padded_M() * kBlockTokens);
        take(d_weights, s.padded_M() * kBlockTokens);
    }
};

class Gradients {
 public:
    Gradients(const CrossAttentionBackward& p, const CrossAttentionShape& shape, Workspace& w)
        : p_(p), s_(shape), d_k_(room(p.d_k, w)), d_v_(room(p.d_v, w)) {}

    static size_t bytes(const CrossAttentionBackward& p, const CrossAttentionShape& s) {
        return (!p.d_k.empty() + !p.d_v.empty()) * workspace_bytes<float>(s.B * s.chunks * s.heads());
    }

    void chunk(int64_t index, const Scratch& x) const {
        const int64_t b = index / s_.chunks, first = index % s_.chunks * kChunkTokens;
        pack_latents(p_.k, b, p_.scale, s_, x.keys);
        pack_latents(p_.v, b, 1.0f, s_, x.values);
        for (float* sums : {d_k_, d_v_})
            if (sums) std::fill_n(sums + index * s_.heads(), s_.heads(), 0.0f);
        const int64_t last = std::min(first + kChunkTokens, s_.T);
        for (int64_t t = first; t < last; t += kBlockTokens)
            for (int64_t h = 0; h < s_.H; ++h) {
                const int64_t at = h * s_.head(), sums = index * s_.heads() + at;
                const int64_t count = std::min(kBlockTokens, last - t);
                for (const View* rows : {&p_.q, &p_.d_out}) fetch_next_block(*rows, b, t, h);
                HWY_DYNAMIC_DISPATCH(head_gradients)
                ({token_rows(p_.q, b, t, h, count),
                  token_rows(p_.d_out, b, t, h, count),
                  {x.keys + at, s_.M, s_.D, s_.padded_D()},
                  {x.values + at, s_.M, s_.D, s_.padded_D()},
                  x.weights,
                  x.d_weights,
                  p_.d_q ? p_.d_q.at<float>(b, t, h) : nullptr,
                  d_k_ ? d_k_ + sums : nullptr,
                  d_v_ ? d_v_ + sums : nullptr,
                  p_.d_q.stride[1]});
            }
    }

    /// d_k and d_v of a sequence.
    void add_chunks(int64_t b) const {
        for (int64_t h = 0; h < s_.H; ++h)
            for (int64_t m = 0; m < s_.M; ++m) {
                const int64_t from = b * s_.chunks * s_.heads() + h * s_.head() + m * s_.padded_D();
                if (d_k_) add_row(d_k_ + from, p_.scale, p_.d_k.at<float>(b, m, h));
                if (d_v_) add_row(d_v_ + from, 1.0f, p_.d_v.at<float>(b, m, h));
            }
    }

 private:
    float* room(const View& d, Workspace& w) const {
        return d ? w.take<float>(s_.B * s_.chunks * s_.heads()) : nullptr;
    }
    void add_row(const float* parts, float factor, float* to) const {
        HWY_DYNAMIC_DISPATCH(sum_parts)(parts, s_.chunks, s_.heads(), s_.D, factor, to);
    }

    const CrossAttentionBackward& p_;
    const CrossAttentionShape& s_;
    float *d_k_, *d_v_;  // [B][chunks], latents of all heads as they are packed
};

size_t workspace(const CrossAttentionBackward& p, const Stream& stream) {
    const CrossAttentionShape shape(p.q, p.k);
    return Gradients::bytes(p, shape) + scratch_bytes<Scratch>(shape) * stream.threads;
}

Status run(const CrossAttentionBackward& p, const Stream& stream, Workspace w) {
    const CrossAttentionShape shape(p.q, p.k);
    const Gradients gradients(p, shape, w);
    const size_t bytes = scratch_bytes<Scratch>(shape);
    parallel_for(stream, shape.B * shape.chunks, [&](int64_t index, int worker) {
        gradients.chunk(index, cut_scratch<Scratch>(shape, {w.data + worker * bytes, bytes}));
    });
    if (p.d_k || p.d_v) parallel_for(stream, shape.B, [&](int64_t b, int) { gradients.add_chunks(b); });
    return {};
}

}  // namespace

Op<CrossAttentionBackward> cross_attention_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
