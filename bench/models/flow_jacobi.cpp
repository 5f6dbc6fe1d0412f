// A flow inverted by Jacobi sweeps: each goes through all positions at once, so what bounds it is the rate of products, and the share
// printed is that of the whole inversion, its searches, comparisons and element-wise passes included, and the pass that runs forward what
// was found.
#include <memory>
#include <string>

#include "models/random_flow.h"
#include "ops/bench.h"

using namespace noema;
using namespace noema::bench;

namespace {

struct Size {
    int64_t C, F, heads;
    Precision precision;
    int64_t B;
};
constexpr int64_t kPositions = 256, kLatent = 16, kLayers = 6;

// With heads as small as this a sweep leaves a tenth to a fiftieth of the change before it: 0.04 after the second, 0.003
// after the third. The tolerance lies between, so every size takes the same number of sweeps, and what bf16 rounds away is below it.
// What is found then leads 3e-5 away from the noise, 7e-4 in bf16: far less than is an error.
constexpr float kHead = 0.002f;
constexpr int kSweeps = 3, kPasses = kSweeps + 1;
constexpr float kTolerance = 0.01f;

FlowConfig config_of(const Size& s) {
    FlowConfig c;
    c.vocab_size = 256;
    c.latent_size = kLatent;
    c.hidden_size = s.C;
    c.num_heads = s.heads;
    c.intermediate_size = s.F;
    c.max_positions = kPositions;
    c.flows = {{.kind = FlowKind::affine, .num_layers = kLayers}};
    return c;
}

/// Of one sweep over all positions: every product's weight once per row, and of attention what the causal mask leaves.
double sweep_flops(const Size& s) {
    double weights = 0;
    for (const TensorSpec& spec : flow_tensors(config_of(s)))
        if (spec.is_matrix() && spec.name != "codebook.mean") weights += static_cast<double>(spec.size());
    const double rows = static_cast<double>(s.B * kPositions);
    const double keys = (kPositions + 1) / 2.0;
    return 2 * rows * (weights + 2 * keys * static_cast<double>(kLayers * s.C));
}

struct Loaded : RandomFlow {
    FlowInverse swept, sequential;
};

/// How far the sweeps' end is from the sequential inverse; infinite where they were not as many as the work says.
double error_of(const Loaded& loaded) {
    for (const int32_t sweeps : loaded.swept.sweeps[0])
        if (sweeps != kSweeps) return INFINITY;
    return largest_difference(loaded.swept.state, loaded.sequential.state);
}

Workload jacobi(const Size& s) {
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name = "flow/jacobi C" + std::to_string(s.C) + (s.precision == Precision::bf16 ? " bf16" : " f32") + " B" +
             std::to_string(s.B) + " N" + std::to_string(kPositions);
    w.work = {.flops = kPasses * sweep_flops(s), .passes = kPasses, .precision = s.precision};
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(loaded->load(engine, config_of(s), s.B, s.precision, kHead));
        return loaded->invert(engine, {}, loaded->sequential);
    };
    w.step = [=](Engine& engine) {
        const InverseRange range{.plans = {{.method = InverseMethod::jacobi, .tolerance = kTolerance}}};
        return loaded->invert(engine, range, loaded->swept);
    };
    w.error = [=] { return error_of(*loaded); };
    w.tolerance = s.precision == Precision::bf16 ? 4e-3 : 1e-3;
    w.release = [=] { *loaded = {}; };
    return w;
}

const RegisteredWorkloads registered([] {
    std::vector<Workload> all;
    for (const Precision precision : {Precision::f32, Precision::bf16})
        for (const int64_t B : {1, 8}) {
            all.push_back(jacobi({256, 704, 4, precision, B}));
            all.push_back(jacobi({512, 1376, 8, precision, B}));
        }
    return all;
});

}  // namespace
