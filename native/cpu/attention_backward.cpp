// Backward driver. A task owns one key/value head of one sequence, with all queries that read it: keys stay packed for
// the whole task, gradients of keys and values are summed over blocks of queries in order, those of a query over blocks
// of keys in order.
#include <algorithm>
#include <cmath>

#include "cpu/attention_kernels.h"

namespace noema::cpu {

namespace {

/// What a worker needs for one task. Keys and values lie block after block of kKeys.
struct Scratch {
    float *keys_t, *keys, *values_t, *d_keys, *d_values;               // the whole sequence
    float *queries, *queries_right, *d_out, *d_out_right, *d_queries;  // one block of queries
    float *scores, *d_weights, *weights_t, *d_scores_t, *d_scores, *delta, *lse;
    KeyRun* runs;

    template <class Take>
    void lay_out(const AttentionShape& s, const Take& take) {
        const int64_t keys_padded = s.key_blocks() * kKeys;
        for (float** whole_head : {&keys_t, &keys, &values_t, &d_keys, &d_values})
            take(*whole_head, keys_padded * s.padded);
        for (float** rows : {&queries, &queries_right, &d_out, &d_out_right, &d_queries})
            take(*rows, kQueries * s.padded);
        for (float** square : {&scores, &d_weights, &weights_t, &d_scores_t, &d_scores})
            take(*square, kQueries * kKeys);
        take(delta, kQueries);
        take(lse, kQueries);
        take(runs, kQueries);
    }
};

class Task {
 public:
    Task(const AttentionBackward& p, const AttentionShape& shape, const Scratch& scratch, int64_t index)
        : p_(p),
          s_(shape),
          kernels_(attention_kernels(p.precision)),
          x_(scratch),
          b_(index / s_.Hkv),
          g_(index % s_.Hkv) {}

    void run() {
        seen_ = seen_keys(p_.mask, b_, 0, s_.Tq, s_.Tk, nullptr);
        for (int64_t n = 0; n < s_.key_blocks(); ++n) load_keys(n);
        for (int64_t h = g_ * s_.group; h < (g_ + 1) * s_.group; ++h)
            for (int64_t i = 0; i < s_.Tq; i += kQueries) queries(h, i, std::min(kQueries, s_.Tq - i));
        for (int64_t j = 0; j < s_.Tk; ++j) {
            kernels_.scale_row(x_.d_keys + j * s_.padded, 1.0f, s_.D, p_.d_k.at<float>(b_, j, g_));
            kernels_.scale_row(x_.d_values + j * s_.padded, 1.0f, s_.D, p_.d_v.at<float>(b_, j, g_));
        }
    }

 private:
    HeadRows query_rows(const View& v, int64_t h, int64_t i, int64_t rows) const {
        return {v.at<float>(b_, i, h), v.stride[1], 0, rows, s_.D};
    }

    void load_keys(int64_t n) {
        const int64_t at = n * kKeys * s_.padded;
        std::fill_n(x_.d_keys + at, kKeys * s_.padded, 0.0f);
        std::fill_n(x_.d_values + at, kKeys * s_.padded, 0.0f);
        const HeadRows k = key_rows(p_.k, b_, g_, n, seen_), v = key_rows(p_.v, b_, g_, n, seen_);
        kernels_.pack_transposed(k, x_.keys_t + at);
        kernels_.pack_transposed(v, x_.values_t + at);
        kernels_.pack_right(k, kKeys, x_.keys + at);
    }

    void queries(int64_t h, int64_t i, int64_t rows) {
        load_queries(h, i, rows);
        const KeyRun seen = seen_keys(p_.mask, b_, i, i + rows, s_.Tk, x_.runs);
        for (int64_t n = seen.low / kKeys; n * kKeys < seen.high; ++n) block(rows, n);
        for (int64_t r = 0; r < rows; ++r)
            kernels_.scale_row(x_.d_queries + r * s_.padded, 1.0f, s_.D, p_.d_q.at<float>(b_, i + r, h));
    }

    /// Right operands are summed over rows, in words: an odd last row gets a zero partner.
    void load_queries(int64_t h, int64_t i, int64_t rows) {
        const HeadRows q = query_rows(p_.q, h, i, rows), d_out = query_rows(p_.d_out, h, i, rows);
        kernels_.pack_left(q, rows, x_.queries);
        kernels_.pack_left(d_out, rows, x_.d_out);
        kernels_.pack_right(q, rows, x_.queries_right);
        kernels_.pack_right(d_out, rows, x_.d_out_right);
        kernels_.row_dots(d_out, query_rows(p_.out, h, i, rows), x_.delta);
        for (int64_t r = 0; r < rows; ++r) {
            const float lse = *p_.lse.at<float>(b_, h, i + r);
            x_.lse[r] = lse == -HUGE_VALF ? HUGE_VALF : lse;
        }
        std::fill_n(x_.d_queries, rows * s_.padded, 0.0f);
    }

    void block(int64_t rows, int64_t n) {
        VisibleBlock visible = visible_block(x_.runs, p_.mask.causal ? rows : 1, n);
        visible.rows = rows;
        if (visible.first == visible.last) return;
        const int64_t first = visible.first, columns = visible.last - first, padded = s_.padded;
        const int64_t per_word = kernels_.per_word, start = n * kKeys * padded, at = start + first * padded;
        scores(visible, x_.queries, x_.keys_t + start + first, x_.scores);
        scores(visible, x_.d_out, x_.values_t + start + first, x_.d_weights);
        hide_scores(x_.runs, visible, n, x_.scores);
        const bool narrow = per_word == 1;
        float* weights_t = narrow ? x_.scores : x_.weights_t;
        float* d_scores_t = narrow ? x_.d_weights : x_.d_scores_t;
        float* d_scores = narrow ? x_.d_weights : x_.d_scores;
        kernels_.softmax_backward(
            {visible, p_.scale, x_.scores, x_.d_weights, x_.lse, x_.delta, weights_t, d_scores_t, d_scores});
        const int64_t row_words = kernels_.words(rows);
        kernels_.product({columns, padded, row_words, weights_t + first, 1, kKeys, x_.d_out_right, padded,
                          x_.d_values + at, padded, true});
        kernels_.product({columns, padded, row_words, d_scores_t + first, 1, kKeys, x_.queries_right, padded,
                          x_.d_keys + at, padded, true});
        kernels_.product({rows, padded, columns / per_word, d_scores + first / per_word, kKeys / per_word, 1,
                          x_.keys + start + first / per_word * padded, padded, x_.d_queries, padded, true});
    }

    void scores(const VisibleBlock& visible, const float* left, const float* right, float* c) {
        const int64_t row = s_.padded / kernels_.per_word;
        kernels_.product({visible.rows, visible.last - visible.first, kernels_.words(s_.D), left, row, 1, right, kKeys,
                          c + visible.first, kKeys, false});
    }

    const AttentionBackward& p_;
    const AttentionShape& s_;
    const AttentionKernels& kernels_;
    const Scratch& x_;
    int64_t b_, g_;
    KeyRun seen_{};
};

size_t backward_workspace(const AttentionBackward& p, const Stream& stream) {
    return scratch_bytes<Scratch>(AttentionShape(p.q, p.k)) * stream.threads;
}

Status backward(const AttentionBackward& p, const Stream& stream, Workspace workspace) {
    const AttentionShape shape(p.q, p.k);
    const size_t bytes = scratch_bytes<Scratch>(shape);
    parallel_for(stream, shape.B * shape.Hkv, [&](int64_t index, int worker) {
        const Scratch scratch = cut_scratch<Scratch>(shape, {workspace.data + worker * bytes, bytes});
        Task(p, shape, scratch, index).run();
    });
    return {};
}

}  // namespace

Op<AttentionBackward> attention_backward_entry() {
    return {backward, backward_workspace};
}

}  // namespace noema::cpu
