// Attention as sequential_inverse computes it, one query after the other: where a flow's sweeps, which take many positions at once, are to
// find what the sequential inverse finds, to the bit.
#include <algorithm>

#include "cpu/attention_kernels.h"
#include "cpu/sequential_inverse.h"

namespace noema::cpu {

namespace {

/// Of a task: as with fewer, copying the keys would be seen, and with more, not every worker has something to do.
constexpr int64_t kQueriesPerTask = 64;

struct Scratch {
    float *queries, *weights;
    std::byte *keys, *values;

    template <class Take>
    void lay_out(const Attention& p, const Take& take) {
        const int64_t Tk = p.k.shape[1], D = p.q.shape[3];
        const int64_t bytes = kept_bytes(Tk, D, p.precision == Precision::bf16);
        take(queries, kQueriesPerTask * padded_head(D));
        take(weights, kQueriesAtOnce * room_for_weights(Tk));
        take(keys, bytes);
        take(values, bytes);
    }
};

/// Queries [first, last) of a head of a sequence.
struct Place {
    int64_t b, h, first, last;
};

void attend_task(const Attention& p, const Place& at, const Scratch& scratch) {
    const int64_t D = p.q.shape[3], Tk = p.k.shape[1], seen_by_last = std::min(p.mask.query_offset + at.last, Tk);
    const bool rounding = p.precision == Precision::bf16;
    const auto rows = [&](const View& x, int64_t first, int64_t last) {
        return KeptRows{x.at<const float>(at.b, first, at.h), x.stride[1], last - first, D, rounding};
    };
    keep_queries(rows(p.q, at.first, at.last), scratch.queries);
    keep_rows(rows(p.k, 0, seen_by_last), scratch.keys);
    keep_rows(rows(p.v, 0, seen_by_last), scratch.values);
    attend({.keys = scratch.keys,
            .values = scratch.values,
            .next_keys = scratch.keys,
            .next_values = scratch.values,
            .first = p.mask.query_offset + at.first + 1,
            .keys_given = Tk,
            .count = at.last - at.first,
            .queries = scratch.queries,
            .D = D,
            .scale = p.scale,
            .rounding = rounding,
            .weights = scratch.weights,
            .out = p.out.at<float>(at.b, at.first, at.h),
            .out_stride = p.out.stride[1]});
}

}  // namespace

size_t one_by_one_workspace(const Attention& p, const Stream& stream) {
    return scratch_bytes<Scratch>(p) * stream.threads;
}

void attend_one_by_one(const Attention& p, const Stream& stream, Workspace workspace) {
    const int64_t H = p.q.shape[2], Tq = p.q.shape[1], runs = ceil_div(Tq, kQueriesPerTask);
    const size_t bytes = scratch_bytes<Scratch>(p);
    parallel_for(stream, p.q.shape[0] * H * runs, [&](int64_t i, int worker) {
        // The last queries, which see most, first.
        const int64_t first = (runs - 1 - i % runs) * kQueriesPerTask;
        const Place at{i / runs / H, i / runs % H, first, std::min(first + kQueriesPerTask, Tq)};
        attend_task(p, at, cut_scratch<Scratch>(p, {workspace.data + worker * bytes, bytes}));
    });
}

}  // namespace noema::cpu
