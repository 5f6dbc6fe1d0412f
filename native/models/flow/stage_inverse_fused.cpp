// The sequential inverse, and its steps the other way, by one op.
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

/// The op needs weights in the backend's own arrangement; a trainer's are not.
bool StageInverse::can_fuse() const {
    const Backend& backend = *c_.backend;
    const bool grouped = coupling_.stage.kind == FlowKind::mixture_cdf;
    const Weight& head = grouped ? w_.maf_context.weight : w_.head.weight;
    bool ready = backend.ops.sequential_inverse.run && is_arranged(w_.input.weight, Precision::f32, backend) &&
                 is_arranged(head, Precision::f32, backend);
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

Status StageInverse::run_fused(const Task& t) {
    std::vector<InverseBlock> blocks;
    for (size_t i = 0; i < w_.blocks.size(); ++i) {
        const BlockWeights& b = w_.blocks[i];
        blocks.push_back(
            {b.attention_norm, b.q, b.k, b.v, b.o, b.mlp_norm, b.gate, b.up, b.down, caches_[i].k, caches_[i].v});
    }
    // A position's failures are told in the place of its first search.
    View failed = as_shape(t.failed, {s_.N, s_.B, coupling_.searches()});
    std::swap(failed.shape[0], failed.shape[1]), std::swap(failed.stride[0], failed.stride[1]);
    failed.rank = 2;
    const bool by_scalar = coupling_.stage.kind == FlowKind::mixture_cdf;
    if (by_scalar) failed.stride[0] = 1;
    return sequential_inverse({.blocks = blocks.data(),
                               .layers = static_cast<int64_t>(blocks.size()),
                               .start = w_.start,
                               .input = w_.input.weight,
                               .input_bias = w_.input.bias,
                               .norm = w_.norm,
                               .head = fused_head(),
                               .u = by_sequence(t.u, s_.B),
                               .h = by_sequence(t.h, s_.B),
                               .fixed = t.fixed,
                               .failed = failed,
                               .forward = t.forward,
                               .grid = t.grid,
                               .position = s_.m,
                               .H = s_.config.num_heads,
                               .rope_theta = s_.config.rope_theta,
                               .epsilon = s_.config.rms_norm_eps,
                               .precision = s_.precision},
                              c_);
}

}  // namespace noema
