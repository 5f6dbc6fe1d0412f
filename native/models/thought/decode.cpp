// Token after token: the prompt at once, then one position after the other with cached keys. A sequence's tokens depend on its own prompt, z
// and seed alone: every sequence has its own positions, whatever the lengths of the others' prompts.
#include <algorithm>
#include <cmath>

#include "models/batch_checks.h"
#include "models/thought/weights.h"

namespace noema {

namespace {

Status refuse(const char* what) {
    return Status::error(Code::invalid_argument, "continuation: %s", what);
}

int64_t length_of(const ContinuationTask& task, int64_t b) {
    return task.lengths ? task.lengths[b] : task.T;
}

Status check_task(const ThoughtConfig& config, const ContinuationTask& task) {
    NOEMA_TRY(check_batch_size(task.B, task.T, config.max_positions));
    NOEMA_TRY(check_ids("ids", task.ids, task.B * task.T, config.vocab_size));
    if (!task.z || !task.seeds) return refuse("z and seeds must be given");
    if (task.tokens < 0 || task.tokens > config.max_positions) return refuse("too many tokens are asked for");
    for (int64_t b = 0; b < task.B; ++b) {
        const int64_t length = length_of(task, b);
        if (length < 1 || length > task.T) return refuse("a prompt's length must be 1 to that of the batch");
        // The last token is not read.
        if (length + task.tokens - 1 > config.max_positions)
            return Status::error(Code::prompt_too_long,
                                 "a prompt of %lld tokens and %lld new ones exceed the model's %lld positions",
                                 static_cast<long long>(length), static_cast<long long>(task.tokens),
                                 static_cast<long long>(config.max_positions));
    }
    return {};
}

template <class T>
View view_of(const std::vector<T>& values, DType dtype) {
    return view(const_cast<T*>(values.data()), dtype, static_cast<int64_t>(values.size()));
}

/// Sequences on their way. What a step needs of the step before lies in memory of its own, for steps are runs of their own.
class Writer {
 public:
    Writer(Engine& engine, const ThoughtNetwork& network, const ContinuationTask& task, Continuation& out)
        : engine_(engine),
          network_(network),
          task_(task),
          out_(out),
          B_(task.B),
          window_(std::min(network.config.attention_window, task.T + task.tokens)) {}

    Status run(const std::atomic<bool>* cancelled) {
        NOEMA_TRY(open());
        for (int64_t made = 0; made < task_.tokens && !all_ended(); ++made) {
            if (cancelled && cancelled->load()) return Status::error(Code::aborted, "the continuation was cancelled");
            NOEMA_TRY(made == 0 ? read_prompts(cancelled) : read_token(cancelled));
            NOEMA_TRY(collect());
        }
        return {};
    }

 private:
    Status open();
    Status read_prompts(const std::atomic<bool>* cancelled);
    Status read_token(const std::atomic<bool>* cancelled);
    Status choose(const View& hidden, const View& rows, Context& c);
    Status collect();
    bool all_ended() const { return std::find(ended_.begin(), ended_.end(), 0) == ended_.end(); }
    View place(int64_t rows, size_t& used) const;

    Engine& engine_;
    const ThoughtNetwork& network_;
    const ContinuationTask& task_;
    Continuation& out_;
    const int64_t B_, window_;
    const uint64_t identity_ = next_identity();  // of the memory
    Buffer memory_;
    std::vector<WindowCache> caches_;
    std::vector<uint8_t> ended_;      // [B]
    std::vector<int32_t> positions_;  // [B] of the token that is read next, its prompt's last at first
    std::vector<int32_t> tokens_;     // [B] made last
    std::vector<float> logit_, lse_, logits_;
};

/// [B,rows,H,D] of the memory.
View Writer::place(int64_t rows, size_t& used) const {
    const ThoughtConfig& c = network_.config;
    View v = on_device(view(nullptr, DType::f32, B_, rows, c.num_heads, c.head_width()), engine_.backend().device);
    if (memory_.data()) v.data = static_cast<std::byte*>(memory_.data()) + used;
    used += workspace_bytes<float>(v.size());
    return v;
}

Status Writer::open() {
    const ThoughtConfig& config = network_.config;
    const auto lay_out = [&] {
        size_t used = 0;
        caches_.clear();
        for (int64_t i = 0; i < config.num_layers; ++i) {
            const View k = place(window_, used), v = place(window_, used);
            const int64_t M = config.latents_per_layer();
            const View keys = place(M, used), values = place(M, used);
            caches_.push_back({.k = k, .v = v, .latents = {keys, values}});
        }
        return used;
    };
    const size_t bytes = lay_out();
    memory_ = Buffer(engine_.backend(), bytes);
    if (!memory_.data()) return engine_.no_memory(bytes, "caches");
    // What no position has filled yet is masked, but a NaN there would still be one times zero.
    NOEMA_TRY(engine_.clear(memory_.data(), bytes));
    lay_out();
    ended_.assign(B_, 0);
    for (int64_t b = 0; b < B_; ++b) positions_.push_back(static_cast<int32_t>(length_of(task_, b) - 1));
    tokens_.resize(B_);
    logit_.resize(B_);
    lse_.resize(B_);
    if (task_.logits) logits_.resize(B_ * config.vocab_size);
    out_.tokens.assign(B_, {});
    out_.confidence.assign(B_, {});
    out_.logits.assign(task_.logits ? B_ : 0, {});
    return {};
}

Status Writer::read_prompts(const std::atomic<bool>* cancelled) {
    const BlockShape s = network_.block(B_, task_.T);
    std::vector<int32_t> places(s.rows(), -1), last;
    for (int64_t b = 0; b < B_; ++b) {
        const int64_t n = length_of(task_, b);
        for (int64_t t = std::max<int64_t>(0, n - window_); t < n; ++t)
            places[b * s.T + t] = static_cast<int32_t>(b * window_ + t % window_);
        last.push_back(static_cast<int32_t>(b * s.T + n - 1));
    }
    const auto body = [&](Context& c) {
        const View x = c.arena->tensor(DType::f32, s.rows(), s.C);
        const View ids = c.upload(view(const_cast<int32_t*>(task_.ids), DType::i32, s.rows()));
        const View z = c.upload(view(const_cast<float*>(task_.z), DType::f32, B_, network_.config.latent_size()));
        const View to = c.upload(view_of(places, DType::i32)), rows = c.upload(view_of(last, DType::i32));
        LatentReading reading;
        NOEMA_TRY(open_reading(network_, s, reading, c));
        for (size_t i = 0; i < caches_.size(); ++i) reading.layers[i] = caches_[i].latents;
        NOEMA_TRY(read_latents(network_, s, z, reading, c));
        NOEMA_TRY(embedding({.ids = ids, .table = network_.weights.embed.view, .y = x}, c));
        for (size_t i = 0; i < caches_.size(); ++i) {
            if (c.stream.is_cancelled()) return Status::error(Code::aborted, "the continuation was cancelled");
            NOEMA_TRY(block_forward_filling(s, network_.weights.blocks[i], caches_[i], to, x, c));
        }
        return choose(x, rows, c);
    };
    return engine_.execute(body, cancelled);
}

Status Writer::read_token(const std::atomic<bool>* cancelled) {
    const BlockShape s = network_.block(B_, 1);
    std::vector<int32_t> places, seen, rows;
    for (int64_t b = 0; b < B_; ++b) {
        places.push_back(static_cast<int32_t>(b * window_ + positions_[b] % window_));
        seen.push_back(static_cast<int32_t>(std::min<int64_t>(positions_[b] + 1, window_)));
        rows.push_back(static_cast<int32_t>(b));
    }
    const auto body = [&](Context& c) {
        const View x = c.arena->tensor(DType::f32, B_, s.C);
        const NextPosition next{.positions = as_shape(c.upload(view_of(positions_, DType::i32)), {B_, 1}),
                                .places = c.upload(view_of(places, DType::i32)),
                                .seen = c.upload(view_of(seen, DType::i32))};
        const View ids = c.upload(view_of(tokens_, DType::i32)), all = c.upload(view_of(rows, DType::i32));
        NOEMA_TRY(embedding({.ids = ids, .table = network_.weights.embed.view, .y = x}, c));
        for (size_t i = 0; i < caches_.size(); ++i)
            NOEMA_TRY(block_forward_windowed(s, network_.weights.blocks[i], caches_[i], next, x, c));
        return choose(x, all, c);
    };
    return engine_.execute(Recipe(network_.identity, identity_), body, cancelled);
}

/// The final norm of some rows, and a token for each sequence.
Status Writer::choose(const View& x, const View& rows, Context& c) {
    const ThoughtWeights& w = network_.weights;
    const auto floats = [&] { return c.arena->tensor(DType::f32, B_); };
    const View last = c.arena->tensor(DType::f32, B_, network_.config.hidden_size);
    const View tokens = c.arena->tensor(DType::i32, B_), logit = floats(), lse = floats();
    std::vector<int32_t> drawn(positions_);
    for (int32_t& position : drawn) ++position;
    NOEMA_TRY(embedding({.ids = rows, .table = x, .y = last}, c));
    NOEMA_TRY(rms_norm({.x = last, .weight = w.norm, .y = last, .epsilon = network_.config.rms_norm_eps}, c));
    NOEMA_TRY(sample({.hidden = last,
                      .weight = w.head,
                      .seeds = c.upload(view(const_cast<uint64_t*>(task_.seeds), DType::i64, B_)),
                      .positions = c.upload(view_of(drawn, DType::i32)),
                      .tokens = tokens,
                      .logit = logit,
                      .out = {.lse = lse},
                      .temperature = task_.temperature,
                      .top_k = task_.top_k,
                      .top_p = task_.top_p,
                      .precision = network_.precision},
                     c));
    c.fetch(tokens, tokens_.data());
    c.fetch(logit, logit_.data());
    c.fetch(lse, lse_.data());
    if (!task_.logits) return {};
    const View logits = c.arena->tensor(DType::f32, B_, network_.config.vocab_size);
    NOEMA_TRY(linear(w.head, last, logits, {}, network_.precision, c));
    c.fetch(logits, logits_.data());
    return {};
}

/// What a step made, of the sequences that go on.
Status Writer::collect() {
    const int64_t V = network_.config.vocab_size;
    std::vector<int32_t> told(B_, -1);
    for (int64_t b = 0; b < B_; ++b) {
        if (ended_[b]) continue;
        if (!std::isfinite(lse_[b]))
            return Status::error(Code::non_finite, "sequence %lld has no distribution at position %d",
                                 static_cast<long long>(b), positions_[b] + 1);
        told[b] = tokens_[b];
        out_.tokens[b].push_back(tokens_[b]);
        out_.confidence[b].push_back(std::exp(logit_[b] - lse_[b]));
        if (task_.logits) {
            const auto row = logits_.begin() + b * V;
            out_.logits[b].insert(out_.logits[b].end(), row, row + V);
        }
        ended_[b] = tokens_[b] == task_.end_id;
        if (!ended_[b]) ++positions_[b];  // who has ended reads its last token again, and nobody looks
    }
    if (task_.progress) task_.progress(told);
    return {};
}

}  // namespace

Status thought_continue(Engine& engine, const ThoughtNetwork& network, const ContinuationTask& task, Continuation& out,
                        const std::atomic<bool>* cancelled) {
    out = {};
    NOEMA_TRY(check_task(network.config, task));
    return Writer(engine, network, task, out).run(cancelled);
}

}  // namespace noema
