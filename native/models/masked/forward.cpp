#include "models/masked/weights.h"

namespace noema {

View ids_view(const MaskedBatch& b) {
    return view(const_cast<int32_t*>(b.ids), DType::i32, b.B * b.T);
}

AttentionMask mask_of(const MaskedBatch& b) {
    AttentionMask mask;
    if (b.key_start) mask.key_start = view(const_cast<int32_t*>(b.key_start), DType::i32, b.B);
    if (b.key_end) mask.key_end = view(const_cast<int32_t*>(b.key_end), DType::i32, b.B);
    return mask;
}

BlockShape block_shape(const MaskedConfig& c, const MaskedBatch& b, Precision precision) {
    return {.B = b.B,
            .T = b.T,
            .C = c.hidden_size,
            .H = c.num_heads,
            .Hkv = c.num_kv_heads,
            .D = c.head_width(),
            .F = c.intermediate_size,
            .epsilon = c.rms_norm_eps,
            .rope_theta = c.rope_theta,
            .mask = mask_of(b),
            .precision = precision};
}

Status check_batch(const MaskedConfig& c, const MaskedBatch& b) {
    if (b.B < 1 || b.T < 1)
        return Status::error(Code::invalid_argument, "a batch of %lld sequences of %lld positions is empty",
                             static_cast<long long>(b.B), static_cast<long long>(b.T));
    if (b.B > INT32_MAX / b.T)
        return Status::error(Code::invalid_argument, "%lld sequences of %lld positions are more rows than 2^31",
                             static_cast<long long>(b.B), static_cast<long long>(b.T));
    if (b.T > c.max_positions)
        return Status::error(Code::prompt_too_long, "%lld positions exceed the model's %lld",
                             static_cast<long long>(b.T), static_cast<long long>(c.max_positions));
    for (int64_t i = 0; i < b.B * b.T; ++i)
        if (b.ids[i] < 0 || b.ids[i] >= c.vocab_size)
            return Status::error(Code::invalid_argument, "ids[%lld] is %d, expected 0 to %lld",
                                 static_cast<long long>(i), b.ids[i], static_cast<long long>(c.vocab_size - 1));
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

Status check_targets(const MaskedConfig& config, const int32_t* targets, int64_t R) {
    for (int64_t r = 0; r < R; ++r)
        if (targets[r] >= config.vocab_size)
            return Status::error(Code::invalid_argument, "targets[%lld] is %d, expected at most %lld",
                                 static_cast<long long>(r), targets[r], static_cast<long long>(config.vocab_size - 1));
    return {};
}

Status masked_forward(const MaskedConfig& config, const MaskedWeights& w, const MaskedBatch& batch, Precision precision,
                      const View& hidden, Context& c, const std::function<void(const View&)>& observe) {
    const BlockShape shape = block_shape(config, batch, precision);
    const auto seen = [&](const View& v) {
        if (observe && !c.arena->measuring()) observe(v);
    };
    NOEMA_TRY(embedding({.ids = ids_view(batch), .table = w.embed.view, .y = hidden}, c));
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

/// The rows whose target is a token, and their targets, side by side in the arena's memory.
struct Scored {
    View rows, targets;
};

Scored scored_rows(const int32_t* targets, int64_t R, Arena& arena) {
    int64_t n = 0;
    for (int64_t r = 0; r < R; ++r) n += targets[r] >= 0;
    Scored s{arena.tensor(DType::i32, n), arena.tensor(DType::i32, n)};
    if (arena.measuring()) return s;
    for (int64_t r = 0, i = 0; r < R; ++r) {
        if (targets[r] < 0) continue;
        s.rows.as<int32_t>()[i] = static_cast<int32_t>(r);
        s.targets.as<int32_t>()[i++] = targets[r];
    }
    return s;
}

}  // namespace

Status masked_losses(const MaskedConfig& config, const MaskedWeights& w, const MaskedBatch& batch,
                     const int32_t* targets, int64_t excluded_id, Precision precision, float* losses, Context& c) {
    ArenaScope scope(*c.arena);
    const int64_t R = batch.B * batch.T, C = config.hidden_size;
    const View hidden = c.arena->tensor(DType::f32, R, C);
    NOEMA_TRY(masked_forward(config, w, batch, precision, hidden, c));
    const Scored scored = scored_rows(targets, R, *c.arena);
    const int64_t n = scored.rows.shape[0];
    const View chosen = c.arena->tensor(DType::f32, n, C), loss = c.arena->tensor(DType::f32, n);
    NOEMA_TRY(embedding({.ids = scored.rows, .table = hidden, .y = chosen}, c));
    NOEMA_TRY(cross_entropy({.hidden = chosen,
                             .weight = w.head,
                             .targets = scored.targets,
                             .loss = loss,
                             .excluded_id = excluded_id,
                             .precision = precision},
                            c));
    if (c.arena->measuring()) return {};
    std::fill(losses, losses + R, 0.0f);
    for (int64_t i = 0; i < n; ++i) losses[scored.rows.as<int32_t>()[i]] = loss.as<float>()[i];
    return {};
}

}  // namespace noema
