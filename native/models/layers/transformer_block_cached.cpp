#include "models/layers/transformer_block.h"

namespace noema {

namespace {

/// Positions first .. first + count of a [B,S,H,D] cache.
View positions_of(const View& cache, int64_t first, int64_t count) {
    View v = moved(cache, first * cache.stride[1]);
    v.shape[1] = count;
    return v;
}

/// [B,T,H,D] of a cache as [B,T,H*D].
View wide(const View& v) {
    View w = v;
    w.rank = 3;
    w.shape[2] = v.shape[2] * v.shape[3], w.stride[2] = 1;
    return w;
}

/// place [B,T,Hkv,D] of a cache = weight n, by way of rows: sequences lie apart in the cache.
Status project(const BlockShape& s, const Weight& weight, const View& n, const View& place, Context& c) {
    ArenaScope scope(*c.arena);
    const View rows = c.arena->tensor(DType::f32, s.B, s.T, s.Hkv * s.D);
    NOEMA_TRY(linear(weight, n, as_shape(rows, {s.rows(), s.Hkv * s.D}), {}, s.precision, c));
    return reorder({.x = rows, .y = wide(place)}, c);
}

Status attend_cached(const BlockShape& s, const BlockWeights& w, const BlockCache& cache, int64_t position,
                     const View& x, Context& c) {
    ArenaScope scope(*c.arena);
    const View n = c.arena->tensor(DType::f32, s.rows(), s.C);
    const View q = c.arena->tensor(DType::f32, s.B, s.T, s.H, s.D);
    const View out = c.arena->tensor(DType::f32, s.B, s.T, s.H, s.D);
    const View k = positions_of(cache.k, position, s.T), v = positions_of(cache.v, position, s.T);
    const auto rotate = [&](const View& t) {
        return rope({.x = t, .y = t, .position_offset = position, .theta = s.rope_theta}, c);
    };
    NOEMA_TRY(rms_norm({.x = x, .weight = w.attention_norm, .y = n, .epsilon = s.epsilon}, c));
    NOEMA_TRY(linear(w.q, n, as_rows(q), {}, s.precision, c));
    NOEMA_TRY(project(s, w.k, n, k, c));
    NOEMA_TRY(project(s, w.v, n, v, c));
    NOEMA_TRY(rotate(q));
    NOEMA_TRY(rotate(k));
    NOEMA_TRY(attention({.q = q,
                         .k = positions_of(cache.k, 0, position + s.T),
                         .v = positions_of(cache.v, 0, position + s.T),
                         .out = out,
                         .mask = {.query_offset = position, .causal = true},
                         .scale = attention_scale(s),
                         .precision = s.precision,
                         .one_by_one = s.H == s.Hkv},
                        c));
    return linear(w.o, as_rows(out), x, x, s.precision, c);
}

}  // namespace

Status block_forward_cached(const BlockShape& s, const BlockWeights& w, const BlockCache& cache, int64_t position,
                            const View& x, Context& c) {
    NOEMA_TRY(attend_cached(s, w, cache, position, x, c));
    return block_mlp(s, w, x, c);
}

// --- a window, of which every sequence sees its own part --------------------------------------------------------------------

namespace {

Status attend_window(const BlockShape& s, const BlockWeights& w, const WindowCache& cache, const NextPosition& next,
                     const View& x, Context& c) {
    ArenaScope scope(*c.arena);
    const auto room = [&] { return c.arena->tensor(DType::f32, s.B, s.T, s.H, s.D); };
    const View n = c.arena->tensor(DType::f32, s.rows(), s.C), out = room();
    BlockActivations a;
    a.q = room(), a.k = room(), a.v = room();
    NOEMA_TRY(rms_norm({.x = x, .weight = w.attention_norm, .y = n, .epsilon = s.epsilon}, c));
    NOEMA_TRY(linear(w.q, n, as_rows(a.q), {}, s.precision, c));
    NOEMA_TRY(linear(w.k, n, as_rows(a.k), {}, s.precision, c));
    NOEMA_TRY(linear(w.v, n, as_rows(a.v), {}, s.precision, c));
    for (const View& t : {a.q, a.k})
        NOEMA_TRY(rope({.x = t, .y = t, .positions = next.positions, .theta = s.rope_theta}, c));
    NOEMA_TRY(cache.store(a, next.places, c));
    NOEMA_TRY(attention({.q = a.q,
                         .k = cache.k,
                         .v = cache.v,
                         .out = out,
                         .mask = {.key_end = next.seen},
                         .scale = attention_scale(s),
                         .precision = s.precision},
                        c));
    return linear(w.o, as_rows(out), x, x, s.precision, c);
}

}  // namespace

Status WindowCache::store(const BlockActivations& from, const View& places, Context& c) const {
    NOEMA_TRY(scatter({.x = as_rows(from.k), .rows = places, .y = as_rows(k)}, c));
    return scatter({.x = as_rows(from.v), .rows = places, .y = as_rows(v)}, c);
}

Status block_forward_filling(const BlockShape& s, const BlockWeights& w, const WindowCache& cache, const View& places,
                             const View& x, Context& c) {
    {
        ArenaScope scope(*c.arena);
        const BlockActivations a = transient_activations(s, x, *c.arena);
        NOEMA_TRY(keep_attention(s, w, a, c));
        NOEMA_TRY(cache.store(a, places, c));
    }
    if (cache.latents.keys) NOEMA_TRY(block_cross(s, w, cache.latents, x, c));
    return block_mlp(s, w, x, c);
}

Status block_forward_windowed(const BlockShape& s, const BlockWeights& w, const WindowCache& cache,
                              const NextPosition& next, const View& x, Context& c) {
    NOEMA_TRY(attend_window(s, w, cache, next, x, c));
    if (cache.latents.keys) NOEMA_TRY(block_cross(s, w, cache.latents, x, c));
    return block_mlp(s, w, x, c);
}

}  // namespace noema
