#include <algorithm>

#include "models/batch_checks.h"
#include "models/thought/weights.h"

namespace noema {

BlockShape ThoughtNetwork::block(int64_t B, int64_t T) const {
    return {.B = B,
            .T = T,
            .C = config.hidden_size,
            .H = config.num_heads,
            .Hkv = config.num_heads,
            .D = config.head_width(),
            .F = config.intermediate_size,
            .M = config.latents_per_layer(),
            .epsilon = config.rms_norm_eps,
            .rope_theta = config.rope_theta,
            .mask = {.window = config.attention_window, .causal = true},
            .precision = precision};
}

Status check_batch(const ThoughtConfig& config, const ThoughtBatch& b) {
    NOEMA_TRY(check_batch_size(b.B, b.T, config.max_positions));
    NOEMA_TRY(check_ids("ids", b.ids, b.B * b.T, config.vocab_size));
    return b.targets ? check_targets(b.targets, b.B * b.T, config.vocab_size) : Status{};
}

// --- latents ---------------------------------------------------------------------------------------------------------

namespace {

/// z [B,N*C] by layer: [L,B,M*C], without a copy.
View by_layer(const BlockShape& s, int64_t layers, const View& z) {
    const int64_t width = s.M * s.C;
    View v = as_shape(z, {layers, s.B, width});
    v.stride[0] = width;
    v.stride[1] = z.stride[0];
    return v;
}

/// The rows of one layer of [L*B*M,C].
View layer_rows(const BlockShape& s, const View& rows, int64_t layer) {
    return rows_of(rows, layer * s.B * s.M, s.B * s.M);
}

View layers_of(const BlockShape& s, int64_t layers, const View& rows) {
    return as_shape(rows, {layers, s.B, s.M * s.C});
}

}  // namespace

Status open_reading(const ThoughtNetwork& network, const BlockShape& s, LatentReading& out, Context& c) {
    const int64_t L = network.config.num_layers;
    out.place = c.arena->tensor(DType::f32, L * s.B * s.M, s.C);
    out.rows = c.arena->tensor(DType::f32, L * s.B * s.M, s.C);
    out.layers.clear();
    const auto room = [&] { return c.arena->tensor(DType::f32, s.B, s.M, s.H, s.D); };
    for (int64_t i = 0; i < L; ++i) out.layers.push_back({.keys = room(), .values = room()});

    std::vector<int32_t> order(s.B * s.M);
    for (int64_t r = 0; r < s.B * s.M; ++r) order[r] = static_cast<int32_t>(r % s.M);
    const View ids = c.upload(view(order.data(), DType::i32, s.B * s.M));
    for (int64_t i = 0; i < L; ++i)
        NOEMA_TRY(embedding(
            {.ids = ids, .table = network.weights.blocks[i].cross.place, .y = layer_rows(s, out.place, i)}, c));
    return {};
}

Status read_latents(const ThoughtNetwork& network, const BlockShape& s, const View& z, const LatentReading& reading,
                    Context& c) {
    const int64_t L = network.config.num_layers;
    // rows = place + z; the backward of a move is the one that adds.
    NOEMA_TRY(cast({.x = reading.place, .y = reading.rows}, c));
    NOEMA_TRY(
        reorder_backward({.d_y = by_layer(s, L, z), .d_x = layers_of(s, L, reading.rows), .accumulate_x = true}, c));
    for (int64_t i = 0; i < L; ++i)
        NOEMA_TRY(latent_keys(s, network.weights.blocks[i], layer_rows(s, reading.rows, i), reading.layers[i], c));
    return {};
}

Status read_latents_backward(const ThoughtNetwork& network, const BlockShape& s, const LatentReading& reading,
                             const std::vector<BlockGradients>& gradients, const View& d_z, Context& c) {
    const int64_t L = network.config.num_layers;
    ArenaScope scope(*c.arena);
    const View d_rows = c.arena->tensor(DType::f32, L * s.B * s.M, s.C);
    for (int64_t i = 0; i < L; ++i) {
        const View d_layer = layer_rows(s, d_rows, i);
        NOEMA_TRY(latent_keys_backward(s, network.weights.blocks[i], gradients[i], layer_rows(s, reading.rows, i),
                                       d_layer, c));
        // rows = z + place, the same place for every sequence
        const View& d_place = gradients[i].cross.place;
        if (!d_place) continue;
        NOEMA_TRY(reduce({.x = as_shape(d_layer, {s.B, s.M * s.C}),
                          .y = as_shape(d_place, {s.M * s.C}),
                          .kind = ReduceKind::sum,
                          .axis = ReduceAxis::rows,
                          .accumulate = true},
                         c));
    }
    if (!d_z) return {};
    return reorder({.x = layers_of(s, L, d_rows), .y = by_layer(s, L, d_z)}, c);
}

// --- the decoder -----------------------------------------------------------------------------------------------------

namespace {

Status cancelled() {
    return Status::error(Code::aborted, "the forward pass was cancelled");
}

}  // namespace

Status thought_forward(const ThoughtNetwork& network, const BlockShape& s, const View& ids, const View& z,
                       const View& hidden, Context& c, const ThoughtOnlooker& onlooker) {
    const ThoughtWeights& w = network.weights;
    const auto shown = [](const std::function<void(const View&)>& look, const View& what) {
        if (look) look(what);
    };
    ArenaScope scope(*c.arena);
    View attention;
    if (onlooker.attention) attention = c.arena->tensor(DType::f32, s.B, s.T, s.H, s.M);
    LatentReading reading;
    NOEMA_TRY(open_reading(network, s, reading, c));
    NOEMA_TRY(read_latents(network, s, z, reading, c));
    NOEMA_TRY(embedding({.ids = ids, .table = w.embed.view, .y = hidden}, c));
    shown(onlooker.stream, hidden);
    for (size_t i = 0; i < w.blocks.size(); ++i) {
        if (c.stream.is_cancelled()) return cancelled();
        reading.layers[i].weights = attention;
        NOEMA_TRY(block_forward(s, w.blocks[i], hidden, c, reading.layers[i]));
        shown(onlooker.attention, attention);
        shown(onlooker.stream, hidden);
    }
    return rms_norm({.x = hidden, .weight = w.norm, .y = hidden, .epsilon = s.epsilon}, c);
}

namespace {

/// Where block i writes: the next one's input.
const View& output_of(const ThoughtActivations& kept, size_t i) {
    return i + 1 < kept.blocks.size() ? kept.blocks[i + 1].x : kept.last;
}

void make_room(const ThoughtNetwork& network, const BlockShape& s, Keep keep, ThoughtActivations& out, Arena& arena) {
    const size_t L = network.weights.blocks.size();
    out.blocks.clear();
    for (size_t i = 0; i < L; ++i) {
        // A pass without backward needs the ground, and two blocks that take turns: one reads what the other wrote.
        const bool own = keep == Keep::everything || i < 3;
        out.blocks.push_back(own ? keep_activations(s, arena) : out.blocks[i - 2]);
    }
    out.last = arena.tensor(DType::f32, s.rows(), s.C);
    out.inv_rms = arena.tensor(DType::f32, s.rows());
    out.hidden = arena.tensor(DType::f32, s.rows(), s.C);
}

}  // namespace

Status lay_ground(const ThoughtNetwork& network, const BlockShape& s, const View& ids, Keep keep,
                  ThoughtActivations& out, Context& c) {
    const ThoughtWeights& w = network.weights;
    out.ids = ids;
    make_room(network, s, keep, out, *c.arena);
    NOEMA_TRY(open_reading(network, s, out.reading, c));
    for (size_t i = 0; i < out.blocks.size(); ++i) out.blocks[i].latents = out.reading.layers[i];
    NOEMA_TRY(embedding({.ids = ids, .table = w.embed.view, .y = out.blocks[0].x}, c));
    NOEMA_TRY(keep_attention(s, w.blocks[0], out.blocks[0], c));
    return keep_queries(s, w.blocks[0], out.blocks[0], c);
}

Status forward_from_ground(const ThoughtNetwork& network, const BlockShape& s, const View& z,
                           const ThoughtActivations& k, Context& c) {
    const ThoughtWeights& w = network.weights;
    NOEMA_TRY(read_latents(network, s, z, k.reading, c));
    NOEMA_TRY(keep_reading(s, w.blocks[0], k.blocks[0], c));
    NOEMA_TRY(keep_mlp(s, w.blocks[0], k.blocks[0], output_of(k, 0), c));
    for (size_t i = 1; i < w.blocks.size(); ++i) {
        if (c.stream.is_cancelled()) return cancelled();
        NOEMA_TRY(block_forward_keeping(s, w.blocks[i], k.blocks[i], output_of(k, i), c));
    }
    return rms_norm({.x = k.last, .weight = w.norm, .y = k.hidden, .inv_rms = k.inv_rms, .epsilon = s.epsilon}, c);
}

Status score(const ThoughtNetwork& network, const BlockShape& s, const ThoughtActivations& k, const ThoughtScores& t,
             const View& d_hidden, const View& d_head, Context& c) {
    NOEMA_TRY(cross_entropy({.hidden = k.hidden,
                             .weight = network.weights.head,
                             .targets = t.targets,
                             .row_weight = t.row_weights,
                             .loss = t.losses,
                             .d_hidden = d_hidden,
                             .d_weight = d_head,
                             .precision = s.precision},
                            c));
    if (!t.sums) return {};
    return reduce({.x = as_shape(t.losses, {s.B, s.T}), .y = t.sums}, c);
}

Status thought_losses(Engine& engine, const ThoughtNetwork& network, const ThoughtBatch& b, const float* z,
                      float* losses, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check_batch(network.config, b));
    if (!b.targets || !z) return Status::error(Code::invalid_argument, "losses need targets and z");
    const BlockShape s = network.block(b.B, b.T);
    const auto body = [&](Context& c) {
        ThoughtActivations pass;
        pass.hidden = c.arena->tensor(DType::f32, s.rows(), s.C);
        const View loss = c.arena->tensor(DType::f32, s.rows());
        const View ids = c.upload(view(const_cast<int32_t*>(b.ids), DType::i32, s.rows()));
        const View at = c.upload(view(const_cast<float*>(z), DType::f32, b.B, network.config.latent_size()));
        NOEMA_TRY(thought_forward(network, s, ids, at, pass.hidden, c));
        const View targets = c.upload(view(const_cast<int32_t*>(b.targets), DType::i32, s.rows()));
        NOEMA_TRY(score(network, s, pass, {.targets = targets, .losses = loss}, {}, {}, c));
        c.fetch(loss, losses);
        return Status{};
    };
    return engine.execute(body, cancelled);
}

}  // namespace noema
