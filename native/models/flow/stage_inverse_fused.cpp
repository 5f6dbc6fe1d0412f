// The sequential inverse by one op; a sweep, and its steps the other way, by another.
#include "models/flow/stage_inverse.h"

namespace noema {

namespace {

CouplingKind coupling_kind(FlowKind kind) {
    switch (kind) {
        case FlowKind::affine: return CouplingKind::affine;
        case FlowKind::mixture_cdf: return CouplingKind::mixture_cdf;
        case FlowKind::mixture_rosenblatt: break;
    }
    return CouplingKind::mixture_rosenblatt;
}

}  // namespace

/// The ops need weights in the backend's own arrangement; a trainer's are not.
bool StageInverse::has_fused_weights() const {
    const Backend& backend = *c_.backend;
    const bool grouped = coupling_.stage.kind == FlowKind::mixture_cdf;
    const Weight& head = grouped ? w_.maf_context.weight : w_.head.weight;
    bool ready = is_arranged(w_.input.weight, Precision::f32, backend) && is_arranged(head, Precision::f32, backend);
    for (const BlockWeights& b : w_.blocks)
        for (const Weight* w : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down})
            ready = ready && is_arranged(*w, s_.precision, backend);
    return ready;
}

InverseHead StageInverse::fused_head() const {
    const FlowStage& stage = coupling_.stage;
    return {.kind = coupling_kind(stage.kind),
            .P = s_.P(),
            .weight = w_.head.weight,
            .bias = w_.head.bias,
            .mean = coupling_.mean,
            .log_sigma = coupling_.log_sigma,
            .embed = w_.embed.weight.view,
            .embed_bias = w_.embed.bias,
            .context = w_.maf_context.weight,
            .context_bias = w_.maf_context.bias,
            .features = w_.features,
            .out = w_.maf_out.weight.view,
            .out_bias = w_.maf_out.bias,
            .E = stage.maf_features,
            .M = stage.maf_hidden,
            .K = stage.num_components};
}

std::vector<InverseBlock> StageInverse::fused_blocks() const {
    std::vector<InverseBlock> blocks;
    for (size_t i = 0; i < w_.blocks.size(); ++i) {
        const BlockWeights& b = w_.blocks[i];
        blocks.push_back(
            {b.attention_norm, b.q, b.k, b.v, b.o, b.mlp_norm, b.gate, b.up, b.down, caches_[i].k, caches_[i].v});
    }
    return blocks;
}

/// All but the latents and where they stand.
SequentialInverse StageInverse::fused(const std::vector<InverseBlock>& blocks) const {
    return {.blocks = blocks.data(),
            .layers = static_cast<int64_t>(blocks.size()),
            .start = w_.start,
            .input = w_.input.weight,
            .input_bias = w_.input.bias,
            .norm = w_.norm,
            .head = fused_head(),
            .H = s_.config.num_heads,
            .rope_theta = s_.config.rope_theta,
            .epsilon = s_.config.rms_norm_eps,
            .precision = s_.precision};
}

/// [B,count] of what uncouple would count search by search: a position's failures are told in the place of its first.
View StageInverse::failures(const View& failed, const Module& m) const {
    const int64_t searches = coupling_.searches(), row = coupling_.stage.kind == FlowKind::mixture_cdf ? 1 : searches;
    View v = moved(failed, m.first * s_.B * searches);
    v.rank = 2, v.shape[0] = s_.B, v.shape[1] = m.count;
    v.stride[0] = m.count * row, v.stride[1] = row;
    return v;
}

Status StageInverse::run_fused(const Task& t) {
    const std::vector<InverseBlock> blocks = fused_blocks();
    SequentialInverse p = fused(blocks);
    p.u = by_sequence(t.u, s_.B), p.h = by_sequence(t.h, s_.B);
    p.fixed = t.fixed, p.failed = failures(t.failed, {0, 1});
    p.failed.shape[1] = s_.N, p.failed.stride[1] = s_.B * coupling_.searches();  // every position is a module
    p.grid = t.grid;
    p.position = s_.m;
    return sequential_inverse(p, c_);
}

/// u, h [B*count,c] of the module's positions: forward, u of h; else h as a sweep proposes it.
Status StageInverse::sweep_fused(const Task& t, const Module& m, const View& u, const View& h) {
    ArenaScope scope(*c_.arena);
    const View before = tensor(s_.B * m.count, s_.c());
    const std::vector<InverseBlock> blocks = fused_blocks();
    NOEMA_TRY(shift(t, m, before));
    SequentialInverse p = fused(blocks);
    p.u = by_sequence(u, s_.B), p.h = by_sequence(h, s_.B);
    p.failed = failures(t.failed, m);
    p.grid = t.grid;
    p.position = s_.m + m.first;
    return sequential_sweep({.flow = p, .before = by_sequence(before, s_.B), .forward = t.forward}, c_);
}

}  // namespace noema
