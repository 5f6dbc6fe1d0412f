// Forward driver. A task owns a range of queries of all heads that share one key/value head of one sequence: it packs
// each key block once and takes every block of its queries through it, so packing is paid once per task.
#include <algorithm>
#include <cmath>

#include "cpu/attention_kernels.h"

namespace noema::cpu {

const AttentionKernels& attention_kernels(Precision precision) {
    if (precision == Precision::bf16 && current_isa() >= Isa::avx512_bf16) return attention_kernels_bf16();
    return attention_kernels_f32(precision == Precision::bf16);
}

KeyRun visible_keys(const AttentionMask& mask, int64_t b, int64_t i, int64_t Tk) {
    const int64_t position = mask.query_offset + i;
    KeyRun run{0, Tk};
    if (mask.key_start) run.low = mask.key_start.as<int32_t>()[b];
    if (mask.key_end) run.high = mask.key_end.as<int32_t>()[b];
    if (mask.causal) run.high = std::min(run.high, position + 1);
    if (mask.causal && mask.window > 0) run.low = std::max(run.low, position - mask.window + 1);
    return run.low < run.high ? run : KeyRun{0, 0};
}

KeyRun seen_keys(const AttentionMask& mask, int64_t b, int64_t first, int64_t last, int64_t Tk, KeyRun* runs) {
    KeyRun seen{Tk, 0};
    for (int64_t i = first; i < last; ++i) {
        const KeyRun run = visible_keys(mask, b, i, Tk);
        if (runs) runs[i - first] = run;
        if (run.low < run.high) seen = {std::min(seen.low, run.low), std::max(seen.high, run.high)};
    }
    return seen;
}

/// One run over all that some rows see.
static KeyRun run_over(const KeyRun* runs, int64_t rows) {
    KeyRun all{INT64_MAX, 0};
    for (int64_t r = 0; r < rows; ++r)
        if (runs[r].low < runs[r].high) all = {std::min(all.low, runs[r].low), std::max(all.high, runs[r].high)};
    return all;
}

HeadRows key_rows(const View& v, int64_t b, int64_t g, int64_t n, const KeyRun& seen) {
    const int64_t start = n * kKeys;
    return {v.as<float>() + b * v.stride[0] + start * v.stride[1] + g * v.stride[2], v.stride[1],
            std::max<int64_t>(0, seen.low - start), std::min(kKeys, seen.high - start), v.shape[3]};
}

VisibleBlock visible_block(const KeyRun* runs, int64_t rows, int64_t n) {
    int64_t first = kKeys, last = 0, latest_low = 0, earliest_high = kKeys;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t low = std::clamp(runs[r].low - n * kKeys, int64_t{0}, kKeys);
        const int64_t high = std::clamp(runs[r].high - n * kKeys, low, kKeys);
        latest_low = std::max(latest_low, low);
        earliest_high = std::min(earliest_high, high);
        if (low == high) continue;
        first = std::min(first, low);
        last = std::max(last, high);
    }
    if (first >= last) return {rows, 0, 0, true};
    first = first / kPad * kPad;
    last = (last + kPad - 1) / kPad * kPad;
    return {rows, first, last, latest_low <= first && earliest_high >= last};
}

void hide_scores(const KeyRun* runs, const VisibleBlock& visible, int64_t n, float* scores) {
    if (visible.whole) return;
    for (int64_t r = 0; r < visible.rows; ++r) {
        const int64_t low = std::clamp(runs[r].low - n * kKeys, visible.first, visible.last);
        const int64_t high = std::clamp(runs[r].high - n * kKeys, low, visible.last);
        std::fill(scores + r * kKeys + visible.first, scores + r * kKeys + low, -HUGE_VALF);
        std::fill(scores + r * kKeys + high, scores + r * kKeys + visible.last, -HUGE_VALF);
    }
}

namespace {

struct Plan {
    AttentionShape shape;
    int64_t queries;  // per task
    int64_t ranges;   // of queries per sequence
    int64_t rows() const { return queries * shape.group; }
    int64_t tasks() const { return shape.B * shape.Hkv * ranges; }
};

// Enough tasks for 64 workers when there is enough work for them, but at least 96 rows, over which packing a key (about
// 2 D moves) is small beside using it (2 D multiply-adds per row); at most 256 KB of queries, for the L2 cache.
Plan plan_of(const AttentionShape& s) {
    const auto over = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t wanted_ranges = over(64, std::max<int64_t>(1, s.B * s.Hkv));
    const int64_t least = over(96, s.group);
    const int64_t most = std::max(over(kQueries, s.group), 65536 / (s.padded * s.group));
    const int64_t queries = std::min({std::max(over(s.Tq, wanted_ranges), least), most, std::max<int64_t>(s.Tq, 1)});
    return {s, queries, over(s.Tq, queries)};
}

/// What a worker needs for one task. Counted and cut by the same lines.
struct Scratch {
    float *queries, *out, *max, *sum, *keys, *values, *scores, *weights;
    KeyRun *runs, *block_runs;

    template <class Take>
    void lay_out(const Plan& plan, const Take& take) {
        const int64_t padded = plan.shape.padded, rows = (plan.rows() + kGroup - 1) / kGroup * kGroup;
        take(queries, rows * padded);
        take(out, rows * padded);
        take(max, rows);
        take(sum, rows);
        take(keys, kKeys * padded);
        take(values, kKeys * padded);
        take(scores, kQueries * kKeys);
        take(weights, kQueries * kKeys);
        take(runs, rows);
        take(block_runs, rows / kQueries + 1);
    }
};

/// Where a task's work lies: queries [first, last) of the heads that read key/value head g of sequence b.
struct Place {
    int64_t b, g, first, last;

    Place(const Plan& plan, int64_t index)
        : b(index / plan.ranges / plan.shape.Hkv),
          g(index / plan.ranges % plan.shape.Hkv),
          first(index % plan.ranges * plan.queries),
          last(std::min(first + plan.queries, plan.shape.Tq)) {}
};

class Task {
 public:
    Task(const Attention& p, const AttentionShape& shape, const Scratch& scratch, const Place& place)
        : p_(p),
          s_(shape),
          kernels_(attention_kernels(p.precision)),
          x_(scratch),
          place_(place),
          queries_(place.last - place.first),
          rows_(queries_ * s_.group) {}

    void run() {
        find_runs();
        load_queries();
        for (int64_t n = seen_.low / kKeys; n * kKeys < seen_.high; ++n) {
            load_keys(n);
            for (int64_t row = 0; row < rows_; row += kQueries)
                if (sees(row, n)) block(row, n);
        }
        for (int64_t h = 0; h < s_.group; ++h)
            for (int64_t i = 0; i < queries_; ++i) finish(h, i);
    }

 private:
    int64_t head(int64_t h) const { return place_.g * s_.group + h; }

    void find_runs() {
        seen_ = seen_keys(p_.mask, place_.b, place_.first, place_.last, s_.Tk, x_.runs);
        for (int64_t h = 1; h < s_.group; ++h) std::copy_n(x_.runs, queries_, x_.runs + h * queries_);
        for (int64_t row = 0; row < rows_; row += kQueries)
            x_.block_runs[row / kQueries] = run_over(x_.runs + row, std::min(kQueries, rows_ - row));
    }

    /// Whether any row of the block at `row` sees a key of block n.
    bool sees(int64_t row, int64_t n) const {
        const KeyRun run = x_.block_runs[row / kQueries];
        return run.low < (n + 1) * kKeys && run.high > n * kKeys;
    }

    void load_queries() {
        for (int64_t h = 0; h < s_.group; ++h)
            kernels_.pack_left({p_.q.at<float>(place_.b, place_.first, head(h)), p_.q.stride[1], 0, queries_, s_.D},
                               queries_, x_.queries + h * queries_ * s_.padded / kernels_.per_word);
        std::fill_n(x_.out, rows_ * s_.padded, 0.0f);
        std::fill_n(x_.max, rows_, kNoScore);
        std::fill_n(x_.sum, rows_, 0.0f);
    }

    void load_keys(int64_t n) {
        kernels_.pack_transposed(key_rows(p_.k, place_.b, place_.g, n, seen_), x_.keys);
        kernels_.pack_right(key_rows(p_.v, place_.b, place_.g, n, seen_), kKeys, x_.values);
    }

    void block(int64_t row, int64_t n) {
        const int64_t rows = std::min(kQueries, rows_ - row), padded = s_.padded, per_word = kernels_.per_word;
        // Only causal masks differ from query to query.
        VisibleBlock visible = visible_block(x_.runs + row, p_.mask.causal ? rows : 1, n);
        visible.rows = rows;
        const int64_t first = visible.first, columns = visible.last - visible.first;
        if (!columns) return;
        float* out = x_.out + row * padded;
        kernels_.product({rows, columns, kernels_.words(s_.D), x_.queries + row * padded / per_word, padded / per_word,
                          1, x_.keys + first, kKeys, x_.scores + first, kKeys, false});
        hide_scores(x_.runs + row, visible, n, x_.scores);
        float* weights = per_word == 1 ? x_.scores : x_.weights;
        kernels_.softmax({visible, p_.scale, x_.scores, weights, x_.max + row, x_.sum + row, out, padded});
        kernels_.product({rows, padded, columns / per_word, weights + first / per_word, kKeys / per_word, 1,
                          x_.values + first / per_word * padded, padded, out, padded, true});
    }

    void finish(int64_t h, int64_t i) {
        const int64_t row = h * queries_ + i, query = place_.first + i;
        const float sum = x_.sum[row];
        kernels_.scale_row(x_.out + row * s_.padded, sum == 0 ? 0.0f : 1.0f / sum, s_.D,
                           p_.out.at<float>(place_.b, query, head(h)));
        if (!p_.lse) return;
        *p_.lse.at<float>(place_.b, head(h), query) = sum == 0 ? -HUGE_VALF : x_.max[row] * p_.scale + std::log(sum);
    }

    const Attention& p_;
    const AttentionShape& s_;
    const AttentionKernels& kernels_;
    const Scratch& x_;
    const Place place_;
    const int64_t queries_, rows_;
    KeyRun seen_{};
};

bool goes_one_by_one(const Attention& p) {
    return p.one_by_one && p.k.shape[1] > 0;
}

size_t forward_workspace(const Attention& p, const Stream& stream) {
    if (goes_one_by_one(p)) return one_by_one_workspace(p, stream);
    return scratch_bytes<Scratch>(plan_of(AttentionShape(p.q, p.k))) * stream.threads;
}

Status forward(const Attention& p, const Stream& stream, Workspace workspace) {
    if (goes_one_by_one(p)) {
        attend_one_by_one(p, stream, workspace);
        return {};
    }
    const Plan plan = plan_of(AttentionShape(p.q, p.k));
    const size_t bytes = scratch_bytes<Scratch>(plan);
    parallel_for(stream, plan.tasks(), [&](int64_t index, int worker) {
        const Scratch scratch = cut_scratch<Scratch>(plan, {workspace.data + worker * bytes, bytes});
        Task(p, plan.shape, scratch, Place(plan, index)).run();
    });
    return {};
}

}  // namespace

Op<Attention> attention_entry() {
    return {forward, forward_workspace};
}

}  // namespace noema::cpu
