#include <algorithm>

#include "models/batch_checks.h"
#include "models/masked/weights.h"

namespace noema {

BatchViews upload_batch(const MaskedBatch& b, Context& c) {
    const auto upload = [&](const int32_t* values, int64_t n) {
        return c.upload(view(const_cast<int32_t*>(values), DType::i32, n));
    };
    BatchViews views{.ids = upload(b.ids, b.B * b.T)};
    if (b.key_start) views.mask.key_start = upload(b.key_start, b.B);
    if (b.key_end) views.mask.key_end = upload(b.key_end, b.B);
    return views;
}

BlockShape block_shape(const MaskedConfig& c, const MaskedBatch& b, const AttentionMask& mask, Precision precision) {
    BlockShape shape{.B = b.B,
                     .T = b.T,
                     .C = c.hidden_size,
                     .H = c.num_heads,
                     .Hkv = c.num_kv_heads,
                     .D = c.head_width(),
                     .F = c.intermediate_size,
                     .epsilon = c.rms_norm_eps,
                     .rope_theta = c.rope_theta,
                     .mask = mask,
                     .precision = precision};
    shape.mask.causal = c.causal;
    return shape;
}

Status check_batch(const MaskedConfig& c, const MaskedBatch& b) {
    NOEMA_TRY(check_batch_size(b.B, b.T, c.max_positions));
    NOEMA_TRY(check_ids("ids", b.ids, b.B * b.T, c.vocab_size));
    for (int64_t i = 0; i < b.B; ++i) {
        const int64_t start = b.key_start ? b.key_start[i] : 0, end = b.key_end ? b.key_end[i] : b.T;
        if (start < 0 || end > b.T || start > end)
            return Status::error(Code::invalid_argument,
                                 "keys %lld to %lld of sequence %lld lie outside its %lld positions",
                                 static_cast<long long>(start), static_cast<long long>(end), static_cast<long long>(i),
                                 static_cast<long long>(b.T));
    }
    return {};
}

int32_t predicting_row(const MaskedConfig& config, const MaskedBatch& batch, int64_t row) {
    const int64_t first = batch.key_start ? batch.key_start[row / batch.T] : 0;
    return static_cast<int32_t>(config.shifted && row % batch.T > first ? row - 1 : row);
}

namespace {

using Observer = std::function<void(const View&)>;

Status check_cancelled(const Context& c) {
    return c.stream.is_cancelled() ? Status::error(Code::aborted, "the forward pass was cancelled") : Status{};
}

/// From the embedding, x [R,C], to the final norm, in place.
Status llama_forward(const BlockShape& s, const MaskedWeights& w, const View& x, const Observer& seen, Context& c) {
    for (const BlockWeights& block : w.blocks) {
        NOEMA_TRY(check_cancelled(c));
        NOEMA_TRY(block_forward(s, block, x, c));
        seen(x);
    }
    NOEMA_TRY(rms_norm({.x = x, .weight = w.norm, .y = x, .epsilon = s.epsilon}, c));
    seen(x);
    return {};
}

Status dit_forward(const BlockShape& s, const MaskedWeights& w, const View& x, const Observer& seen, Context& c) {
    ArenaScope scope(*c.arena);
    Condition condition;
    NOEMA_TRY(make_condition(w.dit, condition, c));
    for (const DitBlockWeights& block : w.dit.blocks) {
        NOEMA_TRY(check_cancelled(c));
        NOEMA_TRY(dit_block_forward(s, block, condition.vector, x, c));
        seen(x);
    }
    const View modulation = c.arena->tensor(DType::f32, 1, 2 * s.C);
    NOEMA_TRY(modulation_of(w.dit.modulation, condition.vector, modulation, c));
    LayerNorm norm = modulated_norm(s, x, w.norm, modulation, 0);
    norm.y = x;
    NOEMA_TRY(layer_norm(norm, c));
    seen(x);
    seen(condition.vector);
    return {};
}

}  // namespace

Status masked_forward(const MaskedConfig& config, const MaskedWeights& w, const MaskedBatch& batch, Precision precision,
                      const View& hidden, Context& c, const std::function<void(const View&)>& observe) {
    const BatchViews views = upload_batch(batch, c);
    const BlockShape shape = block_shape(config, batch, views.mask, precision);
    const Observer seen = observe ? observe : [](const View&) {};
    NOEMA_TRY(embedding({.ids = views.ids, .table = w.embed.view, .y = hidden}, c));
    seen(hidden);
    return config.is_dit() ? dit_forward(shape, w, hidden, seen, c) : llama_forward(shape, w, hidden, seen, c);
}

namespace {

/// The rows whose target is a token, their targets, and the rows that predict them.
struct Scored {
    std::vector<int32_t> rows, targets, sources;
    std::vector<float> losses;

    Scored(const MaskedConfig& config, const MaskedBatch& batch, const int32_t* all) {
        for (int64_t r = 0; r < batch.B * batch.T; ++r) {
            if (all[r] < 0) continue;
            rows.push_back(static_cast<int32_t>(r));
            sources.push_back(predicting_row(config, batch, r));
            targets.push_back(all[r]);
        }
        losses.resize(rows.size());
    }
    int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

}  // namespace

Status masked_losses(Engine& engine, const MaskedConfig& config, const MaskedWeights& w, const MaskedBatch& batch,
                     const int32_t* targets, int64_t excluded_id, Precision precision, float* losses,
                     const std::atomic<bool>* cancelled) {
    const int64_t R = batch.B * batch.T, C = config.hidden_size;
    Scored scored(config, batch, targets);
    const auto body = [&](Context& c) {
        const View hidden = c.arena->tensor(DType::f32, R, C), chosen = c.arena->tensor(DType::f32, scored.size(), C);
        const View loss = c.arena->tensor(DType::f32, scored.size());
        NOEMA_TRY(masked_forward(config, w, batch, precision, hidden, c));
        const View sources = c.upload(view(scored.sources.data(), DType::i32, scored.size()));
        NOEMA_TRY(embedding({.ids = sources, .table = hidden, .y = chosen}, c));
        NOEMA_TRY(cross_entropy({.hidden = chosen,
                                 .weight = w.head,
                                 .bias = w.head_bias,
                                 .targets = c.upload(view(scored.targets.data(), DType::i32, scored.size())),
                                 .loss = loss,
                                 .excluded_id = excluded_id,
                                 .precision = precision},
                                c));
        c.fetch(loss, scored.losses.data());
        return Status{};
    };
    NOEMA_TRY(engine.execute(body, cancelled));
    std::fill(losses, losses + R, 0.0f);
    for (int64_t i = 0; i < scored.size(); ++i) losses[scored.rows[i]] = scored.losses[i];
    return {};
}

}  // namespace noema
