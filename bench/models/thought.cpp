// The fast loop of a latent thought model and a token of its decoding, as users call them. Work of a fit counts what has to be done: both
// passes of all products, but nothing twice that does not depend on z, and no gradient of a weight.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "models/random_weights.h"
#include "noema/thought_model.h"
#include "ops/bench.h"

using namespace noema;
using namespace noema::bench;

namespace {

/// LTM-Small of the paper: 38.4 M parameters, two thirds of them the vocabulary's.
ThoughtConfig small() {
    ThoughtConfig c;
    c.vocab_size = 50258;
    c.hidden_size = 512;
    c.num_layers = 3;
    c.num_heads = 8;
    c.intermediate_size = 1376;
    c.max_positions = 1024;
    c.attention_window = 256;
    c.num_latents = 24;
    c.tied_embeddings = true;
    return c;
}

Status random_model(Engine& engine, Precision precision, std::shared_ptr<ThoughtModel>& out) {
    const test::Weights weights = test::random_weights(thought_tensors(small()), [](const TensorSpec& spec) {
        return spec.is_matrix() ? test::Spread{0.02f, 0.0f} : test::Spread{0.0f, 1.0f};
    });
    std::unique_ptr<ThoughtModel> model;
    NOEMA_TRY(ThoughtModel::load(engine, small(), weights.sources, precision, model));
    out = std::move(model);
    return {};
}

/// Multiplications of one position in the products that a step of the fit repeats, the head's included.
double repeated_products() {
    const ThoughtConfig c = small();
    const auto C = static_cast<double>(c.hidden_size), F = static_cast<double>(c.intermediate_size);
    const double block = 6 * C * C + 3 * C * F;
    return static_cast<double>(c.num_layers) * block - 5 * C * C + static_cast<double>(c.vocab_size) * C;
}

struct Loaded {
    std::shared_ptr<ThoughtModel> model;
    std::vector<int32_t> ids, targets;
    std::vector<uint64_t> seeds;
    std::vector<float> z;
    Posterior posterior;
    float cross_entropy = 0;  // of the first step of the first sequence
};

Workload fit(int64_t B, int64_t T, int64_t steps, Precision precision) {
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name = std::string("thought/fit of ") + std::to_string(steps) + " steps 38M B" + std::to_string(B) + " T" +
             std::to_string(T) + (precision == Precision::bf16 ? " bf16" : "");
    w.work.flops = 4 * repeated_products() * static_cast<double>(B * T * steps);
    w.work.precision = precision;
    const auto task = [=](const Loaded& l, int64_t count, int64_t taken) {
        return FitTask{.batch = {.ids = l.ids.data(), .B = count, .T = T, .targets = l.targets.data()},
                       .start = {.seeds = l.seeds.data()},
                       .options = {.steps = taken, .repeated = true}};
    };
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(random_model(engine, precision, loaded->model));
        loaded->ids = test::random_ids(B * T, small().vocab_size);
        loaded->targets = loaded->ids;
        loaded->seeds.assign(B, 3);
        return Status{};
    };
    w.step = [=](Engine& engine) {
        NOEMA_TRY(loaded->model->fit(engine, task(*loaded, B, steps), loaded->posterior, nullptr));
        loaded->cross_entropy = loaded->posterior.cross_entropy[0][0];
        return Status{};
    };
    // The same weights on the processor in f32.
    w.error = [=]() -> double {
        Engine engine(*find_backend("cpu"), 0);
        std::shared_ptr<ThoughtModel> model;
        Posterior expected;
        if (!random_model(engine, Precision::f32, model).ok()) return INFINITY;
        if (!model->fit(engine, task(*loaded, 1, 1), expected, nullptr).ok()) return INFINITY;
        return std::fabs(loaded->cross_entropy / expected.cross_entropy[0][0] - 1);
    };
    w.release = [=] { *loaded = {}; };
    return w;
}

Workload decode(int64_t B, int64_t tokens, Precision precision) {
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name = "thought/" + std::to_string(tokens) + " tokens 38M B" + std::to_string(B) +
             (precision == Precision::bf16 ? " bf16" : "");
    double weights = 0;
    for (const TensorSpec& spec : thought_tensors(small())) weights += static_cast<double>(spec.size());
    w.work.bytes = (precision == Precision::bf16 ? 2 : 4) * weights * static_cast<double>(tokens);
    w.work.flops = 2 * weights * static_cast<double>(tokens * B);
    w.work.precision = precision;
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(random_model(engine, precision, loaded->model));
        loaded->ids = test::random_ids(B * 8, small().vocab_size);
        loaded->seeds.assign(B, 3);
        loaded->z.assign(B * small().latent_size(), 0.1f);
        return Status{};
    };
    const auto made = std::make_shared<Continuation>();
    w.step = [=](Engine& engine) {
        const ContinuationTask task{.ids = loaded->ids.data(),
                                    .B = B,
                                    .T = 8,
                                    .z = loaded->z.data(),
                                    .tokens = tokens,
                                    .seeds = loaded->seeds.data()};
        return loaded->model->continue_text(engine, task, *made, nullptr);
    };
    w.error = [=]() -> double {
        for (const auto& text : made->tokens)
            if (static_cast<int64_t>(text.size()) != tokens) return INFINITY;
        return made->tokens.empty() ? INFINITY : 0;
    };
    w.release = [=] { *loaded = {}; };
    return w;
}

const RegisteredWorkloads registered([] {
    return std::vector{fit(1, 128, 16, Precision::f32),   fit(1, 128, 16, Precision::bf16),
                       fit(1, 1024, 16, Precision::bf16), decode(1, 32, Precision::f32),
                       decode(1, 32, Precision::bf16),    decode(16, 32, Precision::f32)};
});

}  // namespace
