// A flow inverted position by position. Nothing can be faster than reading the weights once per position: work.bytes, `passes` times. The
// bandwidth is that of reading as many bytes again and again, so it is the cache's where the weights fit one. Nor can it be faster than
// the multiply-adds of all sequences: with 8 of them those take longer than the reading where the cache is fast. What a position reads of
// the keys and values before it counts for neither.
#include <cmath>
#include <memory>
#include <string>

#include "models/random_weights.h"
#include "noema/flow_model.h"
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

/// What lives from prepare() to the end of a workload.
struct Loaded {
    std::unique_ptr<FlowModel> model;
    std::vector<int32_t> ids;
    std::vector<double> u;
    FlowInverse found, one_by_one;
};

Status load(Engine& engine, const Size& s, Loaded& loaded) {
    const FlowConfig config = config_of(s);
    const test::Weights weights =
        test::random_weights(flow_tensors(config), [](const TensorSpec& spec) -> test::Spread {
            if (spec.name.find("norm.weight") != std::string::npos) return {0.1f, 1.0f};
            return {0.02f, 0.0f};
        });
    loaded.ids.assign(s.B * kPositions, 0);
    loaded.u.resize(s.B * kPositions * kLatent);
    for (size_t i = 0; i < loaded.u.size(); ++i)
        loaded.u[i] = static_cast<double>(test::normal(1, static_cast<uint32_t>(i)));
    return FlowModel::load(engine, config, weights.sources, s.precision, loaded.model);
}

Status invert(Engine& engine, const Size& s, const Loaded& loaded, const InverseRange& range, FlowInverse& out) {
    const FlowBatch batch{.ids = loaded.ids.data(), .B = s.B, .T = kPositions};
    return loaded.model->invert(engine, batch, loaded.u.data(), range, out, nullptr);
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    double worst = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
        const double error = std::fabs(a[i] - b[i]);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

Workload sequential(const Size& s) {
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name = name_of(s);
    w.work = work_of(s);
    // Modules of one position are solved by the ops one by one.
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(load(engine, s, *loaded));
        const InverseRange range{.plans = {{.method = InverseMethod::jacobi, .modules = kPositions}}};
        return invert(engine, s, *loaded, range, loaded->one_by_one);
    };
    w.step = [=](Engine& engine) { return invert(engine, s, *loaded, {}, loaded->found); };
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
