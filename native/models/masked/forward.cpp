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

Status masked_forward(const MaskedConfig& config, const MaskedWeights& w, const MaskedBatch& batch, Precision precision,
                      const View& hidden, Context& c, const std::function<void(const View&)>& observe) {
    const BatchViews views = upload_batch(batch, c);
    const BlockShape shape = block_shape(config, batch, views.mask, precision);
    const auto seen = [&](const View& v) {
        if (observe) observe(v);
    };
    NOEMA_TRY(embedding({.ids = views.ids, .table = w.embed.view, .y = hidden}, c));
    seen(hidden);
    for (const BlockWeights& block : w.blocks) {
        if (c.stream.is_cancelled()) return Status::error(Code::aborted, "the forward pass was cancelled");
        NOEMA_TRY(block_forward(shape, block, hidden, c));
        seen(hidden);
    }
    NOEMA_TRY(rms_norm({.x = hidden, .weight = w.norm, .y = hidden, .epsilon = config.rms_norm_eps}, c));
    seen(hidden);
    return {};
}

namespace {

/// The rows whose target is a token, and their targets.
struct Scored {
    std::vector<int32_t> rows, targets;
    std::vector<float> losses;

    Scored(const int32_t* all, int64_t R) {
        for (int64_t r = 0; r < R; ++r) {
            if (all[r] < 0) continue;
            rows.push_back(static_cast<int32_t>(r));
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
    Scored scored(targets, R);
    const auto body = [&](Context& c) {
        const View hidden = c.arena->tensor(DType::f32, R, C), chosen = c.arena->tensor(DType::f32, scored.size(), C);
        const View loss = c.arena->tensor(DType::f32, scored.size());
        NOEMA_TRY(masked_forward(config, w, batch, precision, hidden, c));
        const View rows = c.upload(view(scored.rows.data(), DType::i32, scored.size()));
        NOEMA_TRY(embedding({.ids = rows, .table = hidden, .y = chosen}, c));
        NOEMA_TRY(cross_entropy({.hidden = chosen,
                                 .weight = w.head,
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
