// A flow inverted position by position. Nothing can be faster than reading the weights once per position: work.bytes, `passes` times. The
// bandwidth is that of reading as many bytes again and again, so it is the cache's where the weights fit one. Nor can it be faster than
// the multiply-adds of all sequences: with 8 of them those take longer than the reading where the cache is fast. What a position reads of
// the keys and values before it counts for neither.
#include <memory>
#include <string>

#include "models/random_flow.h"
#include "ops/bench.h"

using namespace noema;
using namespace noema::bench;

namespace {

struct Size {
    FlowKind kind;
    int64_t C, F, heads;
    Precision precision;
    int64_t B;
};
constexpr int64_t kPositions = 64, kLatent = 16, kLayers = 6;

FlowConfig config_of(const Size& s) {
    FlowConfig c;
    c.vocab_size = 256;
    c.latent_size = kLatent;
    c.hidden_size = s.C;
    c.num_heads = s.heads;
    c.intermediate_size = s.F;
    c.max_positions = kPositions;
    FlowStage stage{.kind = s.kind, .num_layers = kLayers};
    if (s.kind == FlowKind::mixture_cdf) stage.num_components = stage.maf_hidden = 64, stage.maf_features = 4;
    c.flows = {stage};
    return c;
}

std::string name_of(const Size& s) {
    const char* kind = s.kind == FlowKind::affine        ? "affine"
                       : s.kind == FlowKind::mixture_cdf ? "mixture-cdf"
                                                         : "mixture-rosenblatt";
    return std::string("flow/sequential ") + kind + " C" + std::to_string(s.C) +
           (s.precision == Precision::bf16 ? " bf16" : " f32") + " B" + std::to_string(s.B) + " N" +
           std::to_string(kPositions);
}

/// Of all matrices that a position's step reads: of the grouped head's features what is not masked, which is half.
Work work_of(const Size& s) {
    Work work{.passes = kPositions, .precision = s.precision};
    for (const TensorSpec& spec : flow_tensors(config_of(s))) {
        if (!spec.is_matrix() || spec.name == "codebook.mean") continue;
        const bool block = spec.use == TensorUse::product, masked = spec.name.find("features") != std::string::npos;
        const double weights = static_cast<double>(spec.size()) * (masked ? 0.5 : 1);
        work.bytes += weights * (block && s.precision == Precision::bf16 ? 2 : 4);
        work.flops += weights * 2 * static_cast<double>(s.B) * kPositions;
    }
    return work;
}

struct Loaded : RandomFlow {
    FlowInverse found, one_by_one;
};

Workload sequential(const Size& s) {
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name = name_of(s);
    w.work = work_of(s);
    // Modules of one position are solved by the ops one by one.
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(loaded->load(engine, config_of(s), s.B, s.precision, 0.02f));
        const InverseRange range{.plans = {{.method = InverseMethod::jacobi, .modules = kPositions}}};
        return loaded->invert(engine, range, loaded->one_by_one);
    };
    w.step = [=](Engine& engine) { return loaded->invert(engine, {}, loaded->found); };
    w.error = [=] { return largest_difference(loaded->found.state, loaded->one_by_one.state); };
    w.tolerance = s.precision == Precision::bf16 ? 0.05 : 1e-3;
    w.release = [=] { *loaded = {}; };
    return w;
}

const RegisteredWorkloads registered([] {
    std::vector<Workload> all;
    for (const FlowKind kind : {FlowKind::affine, FlowKind::mixture_cdf, FlowKind::mixture_rosenblatt})
        for (const Precision precision : {Precision::f32, Precision::bf16})
            for (const int64_t B : {1, 8}) {
                all.push_back(sequential({kind, 256, 704, 4, precision, B}));
                all.push_back(sequential({kind, 512, 1376, 8, precision, B}));
            }
    return all;
});

}  // namespace
