// The flow family as a whole: promises that no single op can keep. Values themselves are judged by the golden checkpoints.
#include <algorithm>
#include <cmath>
#include <map>

#include "models/small_flow.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

FlowPass encode(Engine& engine, const FlowModel& model, const FlowBatch& batch, const FlowLatents& latents) {
    FlowPass pass{.keep_states = true};
    const Status status = model.encode(engine, batch, latents, pass, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return pass;
}

std::vector<std::vector<double>> trace(Engine& engine, const FlowModel& model, const FlowBatch& batch,
                                       const FlowLatents& latents) {
    FlowTrace out;
    const Status status = model.trace(engine, batch, latents, out, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return out.states;
}

/// Plain, patched, mixed, prefixed.
std::vector<FlowConfig> all_shapes() {
    return {small_flow_config(), small_flow_config(2), small_flow_config(3, true), small_flow_config(2, true, true)};
}

int64_t prefix_of(const FlowConfig& c) {
    return c.prefix_conditioning ? 3 * c.patch_size : 0;
}

}  // namespace

TEST_CASE("flow: a sequence's states do not depend on its batch or the threads") {
    for (const FlowConfig& config : all_shapes()) {
        Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3);
        const auto model = load(one, config);
        const int64_t T = 12 * config.patch_size, prefix = prefix_of(config), n = (T - prefix) * config.latent_size;
        const Text text(config, 3, T, prefix);
        const FlowPass all = encode(three, *model, text.batch, {.noise = text.noise.data()});
        const std::vector<double> noise = wide(all.states.back());
        const FlowInverse back = invert(three, *model, text.batch, noise);
        for (int64_t b = 0; b < 3; ++b) {
            const FlowBatch alone{.ids = text.ids.data() + b * T, .B = 1, .T = T, .prefix = prefix};
            const FlowPass own = encode(one, *model, alone, {.noise = text.noise.data() + b * n});
            for (size_t l = 0; l < own.states.size(); ++l)
                CHECK(same_bits(own.states[l].data(), all.states[l].data() + b * n, n));
            const std::vector<double> u(noise.begin() + b * n, noise.begin() + (b + 1) * n);
            const FlowInverse found = invert(one, *model, alone, u);
            CHECK(same_bits(found.state.data(), back.state.data() + b * n, n));
        }
    }
}

TEST_CASE("flow: the inverse undoes the stack") {
    for (const FlowConfig& config : all_shapes()) {
        Engine engine(*find_backend("cpu"), 2);
        const auto model = load(engine, config);
        const Text text(config, 2, 20 * config.patch_size, prefix_of(config));
        const FlowPass pass = encode(engine, *model, text.batch, {.noise = text.noise.data()});
        std::vector<double> h = wide(pass.states.back());
        for (int64_t l = static_cast<int64_t>(config.flows.size()); l > 0; --l) {
            h = invert(engine, *model, text.batch, h, {.from = l, .to = l - 1}).state;
            CHECK(largest_difference(h, pass.states[l - 1]) <= 5e-3);
            const FlowPass up = encode(engine, *model, text.batch, {.given = h.data(), .level = l - 1});
            CHECK(largest_difference(up.states.back(), pass.states.back()) <= 2e-4);
        }
        const FlowInverse whole = invert(engine, *model, text.batch, wide(pass.states.back()));
        CHECK(same_bits(whole.state.data(), h.data(), static_cast<int64_t>(h.size())));
    }
}

TEST_CASE("flow: every way of inverting finds the same state, whatever the batch") {
    for (const FlowConfig& config : all_shapes()) {
        Engine engine(*find_backend("cpu"), 2);
        const auto model = load(engine, config);
        const int64_t T = 14 * config.patch_size, prefix = prefix_of(config), n = (T - prefix) * config.latent_size;
        const int64_t N = (T - prefix) / config.patch_size;
        const Text text(config, 3, T, prefix);
        const std::vector<double> u = wide(random_normals(3 * n, 5));
        const FlowInverse sequential = invert(engine, *model, text.batch, u);
        for (const int64_t modules : {int64_t{1}, int64_t{3}, N}) {
            for (const bool zeros : {false, true}) {
                const InversePlan plan{.method = InverseMethod::jacobi, .modules = modules, .from_zeros = zeros};
                const InverseRange range{.plans = std::vector<InversePlan>(config.flows.size(), plan)};
                const FlowInverse found = invert(engine, *model, text.batch, u, range);
                CHECK(largest_difference(found.state, sequential.state) <= 5e-3);
                CHECK(found.tokens == sequential.tokens);
                for (const std::vector<float>& residuals : found.residuals)
                    for (const float residual : residuals) CHECK((residual > 0 && residual <= 1e-5));
                for (const std::vector<int32_t>& sweeps : found.sweeps)
                    for (const int32_t count : sweeps) CHECK((count >= modules && count <= N));
                const FlowBatch last{.ids = text.ids.data() + 2 * T, .B = 1, .T = T, .prefix = prefix};
                const std::vector<double> own(u.begin() + 2 * n, u.end());
                CHECK(same_bits(invert(engine, *model, last, own, range).state.data(), found.state.data() + 2 * n, n));
            }
        }
    }
}

TEST_CASE("flow: a plan that ends before its tolerance is an error, and so is a state that is not finite") {
    const FlowConfig config = small_flow_config();
    Engine engine(*find_backend("cpu"), 2);
    const auto model = load(engine, config);
    const Text text(config, 2, 20);
    std::vector<double> u = wide(random_normals(2 * 20 * config.latent_size, 6));
    InverseRange range;
    range.plans.assign(config.flows.size(), {.method = InverseMethod::jacobi, .sweeps = 2, .tolerance = 1e-7f});
    FlowInverse out;
    const Status status = model->invert(engine, text.batch, u.data(), range, out, nullptr);
    CHECK(status.code == Code::not_converged);
    CHECK(std::string(status.text).find("positions 0 to 19 of sequence") != std::string::npos);
    range.plans.pop_back();
    CHECK(model->invert(engine, text.batch, u.data(), range, out, nullptr).code == Code::invalid_argument);
    u[7] = NAN;
    CHECK(model->invert(engine, text.batch, u.data(), {}, out, nullptr).code == Code::non_finite);
}

TEST_CASE("flow: fixed positions stay, and what comes before them in the flow's order is not touched") {
    const FlowConfig config = small_flow_config();
    Engine engine(*find_backend("cpu"), 2);
    const auto model = load(engine, config);
    const int64_t N = 12, c = config.channels();
    const Text text(config, 1, N);
    const std::vector<std::vector<double>> states = trace(engine, *model, text.batch, {.noise = text.noise.data()});
    std::vector<double> given = states[0];
    std::vector<uint8_t> fixed(N);
    fixed[5] = 1;
    for (int64_t i = 0; i < c; ++i) given[5 * c + i] += 1.0;
    const FlowInverse edited =
        invert(engine, *model, text.batch, states[1], {.from = 1, .fixed = fixed.data(), .given = given.data()});
    const FlowInverse plain = invert(engine, *model, text.batch, states[1], {.from = 1});
    CHECK(plain.state == states[0]);
    CHECK(same_bits(edited.state.data(), plain.state.data(), 5 * c));
    CHECK(same_bits(edited.state.data() + 5 * c, given.data() + 5 * c, c));
    CHECK(!same_bits(edited.state.data() + 6 * c, plain.state.data() + 6 * c, c));
}

TEST_CASE("flow: what a trace gives is undone to the bit, from every level, whatever the threads and the batch") {
    for (const FlowConfig& config : all_shapes())
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3);
            const auto model = load(one, config, precision), same = load(three, config, precision);
            const Text text(config, 3, 14 * config.patch_size, prefix_of(config));
            const auto states = trace(one, *model, text.batch, {.noise = text.noise.data()});
            CHECK(trace(three, *same, text.batch, {.noise = text.noise.data()}) == states);
            const int64_t L = static_cast<int64_t>(config.flows.size());
            for (int64_t from = L; from > 0; --from)
                for (int64_t to = 0; to < from; ++to)
                    CHECK(invert(three, *same, text.batch, states[from], {.from = from, .to = to}).state == states[to]);
            const FlowBatch last{
                .ids = text.ids.data() + 2 * text.batch.T, .B = 1, .T = text.batch.T, .prefix = text.batch.prefix};
            const size_t n = states[0].size() / 3;
            const std::vector<double> own(states.back().begin() + 2 * static_cast<int64_t>(n), states.back().end());
            CHECK(same_bits(invert(one, *model, last, own).state.data(), states[0].data() + 2 * n,
                            static_cast<int64_t>(n)));
            // The pass over all positions says the same, as far as f32 goes.
            const FlowPass pass = encode(one, *model, text.batch, {.noise = text.noise.data()});
            CHECK(largest_difference(pass.states[1], states[1]) <= (precision == Precision::f32 ? 1e-3 : 0.2));
            FlowTrace part{.to = 1};
            REQUIRE(model->trace(one, text.batch, {.noise = text.noise.data()}, part, nullptr).ok());
            CHECK((part.states[0] == states[0] && part.states[1] == states[1] && part.states[2].empty()));
            part.to = static_cast<int64_t>(states.size());
            CHECK(model->trace(one, text.batch, {.noise = text.noise.data()}, part, nullptr).code ==
                  Code::invalid_argument);
            const auto again = trace(one, *model, text.batch, {.given = states[1].data(), .level = 1});
            CHECK(again.back() == states.back());
        }
}

TEST_CASE(
    "flow: tokens come back from slivers of noise, too: sharp clusters, an affine flow on either side of the mixture") {
    FlowConfig config = small_flow_config();
    for (const bool mixture_first : {false, true}) {
        const FlowStage affine{.kind = FlowKind::affine, .reverse = true, .num_layers = 1};
        const FlowStage mixture{.kind = FlowKind::mixture_rosenblatt, .num_layers = 2};
        config.flows =
            mixture_first ? std::vector<FlowStage>{mixture, affine} : std::vector<FlowStage>{affine, mixture};
        Weights w = flow_weights(config);
        for (size_t i = 0; i < w.sources.size(); ++i) {
            const std::string& name = w.sources[i].name;
            if (name == "codebook.log_sigma") std::fill(w.values[i].begin(), w.values[i].end(), -2.3f);
            // A head that is sure of itself: most tokens of a random text are 10 nats and more.
            if (name == (mixture_first ? "flows.0.head.weight" : "flows.1.head.weight"))
                for (float& x : w.values[i]) x *= 5;
            // Near the identity, as trained ones are: moved by a sigma or two, tokens would be hundreds of nats.
            if (!mixture_first && name.rfind("flows.0.head.", 0) == 0)
                for (float& x : w.values[i]) x *= 0.02f;
        }
        Engine engine(*find_backend("cpu"), 2);
        std::unique_ptr<FlowModel> model;
        REQUIRE(FlowModel::load(engine, config, w.sources, Precision::f32, model).ok());
        const Text text(config, 8, 24);
        const auto states = trace(engine, *model, text.batch, {.noise = text.noise.data()});
        const FlowInverse back = invert(engine, *model, text.batch, states.back());
        size_t lost = 0;
        for (size_t i = 0; i < back.state.size(); ++i) lost += back.state[i] != states[0][i];
        CHECK_MESSAGE(lost == 0, lost, " of ", back.state.size(), " scalars, mixture first: ", mixture_first);
        const FlowPass pass = encode(engine, *model, text.batch, {.noise = text.noise.data()});
        CHECK(*std::max_element(pass.nelbo.begin(), pass.nelbo.end()) > 10);
    }
}

TEST_CASE("flow: the cpu backend computes what the reference backend computes") {
    for (const FlowConfig& config : all_shapes()) {
        Engine cpu(*find_backend("cpu"), 2), reference(*find_backend("reference"), 1);
        const auto fast = load(cpu, config), truth = load(reference, config);
        const Text text(config, 2, 8 * config.patch_size, prefix_of(config));
        const FlowPass a = encode(cpu, *fast, text.batch, {.noise = text.noise.data()});
        const FlowPass b = encode(reference, *truth, text.batch, {.noise = text.noise.data()});
        for (size_t l = 0; l < a.states.size(); ++l) CHECK(largest_difference(a.states[l], b.states[l]) <= 2e-4);
        CHECK(largest_difference(a.nelbo, b.nelbo) <= 2e-3);
    }
}

namespace {

/// NELBO of the whole batch after each of some steps.
std::vector<double> trajectory(const FlowConfig& config, const char* backend, int threads, int64_t stage = 0) {
    Engine engine(*find_backend(backend), threads);
    std::unique_ptr<FlowTrainer> trainer;
    REQUIRE(FlowTrainer::create(engine, load(engine, config), true, trainer).ok());
    if (stage) trainer->train_from(stage);
    const Text text(config, 4, 12 * config.patch_size, prefix_of(config));
    const int64_t N = (text.batch.T - text.batch.prefix) / config.patch_size;
    const std::vector<float> weights(4 * N, 1.0f / (4 * N));
    std::vector<double> losses;
    for (int64_t step = 1; step <= 10; ++step) {
        FlowPass pass;
        const Status status = trainer->accumulate(engine, text.batch, {.noise = text.noise.data()},
                                                  {.weights = weights.data(), .reconstruction = 1.5f}, pass, nullptr);
        REQUIRE_MESSAGE(status.ok(), status.text);
        double sum = 0;
        for (const float nats : pass.nelbo) sum += nats;
        losses.push_back(sum / static_cast<double>(pass.nelbo.size()));
        float norm = 0;
        REQUIRE(trainer->step(engine, {.rate = 3e-3f, .weight_decay = 0.01f, .max_norm = 1, .step = step}, norm).ok());
    }
    return losses;
}

}  // namespace

TEST_CASE("flow: training learns, alike on any number of threads, and near the reference") {
    for (const FlowConfig& config : all_shapes()) {
        const std::vector<double> one = trajectory(config, "cpu", 1), three = trajectory(config, "cpu", 3);
        CHECK(one == three);
        CHECK(one.back() < one.front() - 0.1);
    }
    const FlowConfig config = small_flow_config(2, true, true);
    const std::vector<double> cpu = trajectory(config, "cpu", 2), truth = trajectory(config, "reference", 1);
    for (size_t i = 0; i < cpu.size(); ++i) CHECK(std::fabs(cpu[i] - truth[i]) <= 1e-2 * std::fabs(truth[i]));
}

TEST_CASE("flow: frozen flows keep their values") {
    const FlowConfig config = small_flow_config();
    Engine engine(*find_backend("cpu"), 2);
    std::unique_ptr<FlowTrainer> trainer;
    REQUIRE(FlowTrainer::create(engine, load(engine, config), false, trainer).ok());
    trainer->train_from(2);
    const Text text(config, 2, 10);
    const std::vector<float> weights(20, 0.05f);
    FlowPass pass;
    REQUIRE(
        trainer
            ->accumulate(engine, text.batch, {.noise = text.noise.data()}, {.weights = weights.data()}, pass, nullptr)
            .ok());
    const Weights before = flow_weights(config);
    float norm = 0;
    REQUIRE(trainer->step(engine, {.rate = 1e-2f, .weight_decay = 0.1f, .step = 1}, norm).ok());
    CHECK(norm > 0);
    for (size_t i = 0; i < before.sources.size(); ++i) {
        const std::string& name = before.sources[i].name;
        std::vector<float> now(before.values[i].size());
        REQUIRE(trainer->read(engine, TrainerBuffer::parameter, name, now.data()).ok());
        const bool trained = name.rfind("flows.2.", 0) == 0 || name.rfind("flows.3.", 0) == 0;
        CHECK_MESSAGE((now == before.values[i]) != trained, name);
    }
}

namespace {

/// Gradients by name of the NELBO, of the parameters that `from` has, or the model's own.
std::map<std::string, std::vector<float>> gradients(Engine& engine, const FlowConfig& config, const Text& text,
                                                    float beginnings, FlowTrainer* from = nullptr) {
    std::unique_ptr<FlowTrainer> trainer;
    REQUIRE(FlowTrainer::create(engine, load(engine, config), false, trainer).ok());
    const std::vector<float> weights(text.batch.B * text.batch.T / config.patch_size, 0.05f);
    std::map<std::string, std::vector<float>> all;
    for (const TensorSpec& spec : trainer->tensors()) {
        std::vector<float>& values = all[spec.name];
        values.resize(spec.size());
        if (!from) continue;
        REQUIRE(from->read(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
        REQUIRE(trainer->write(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
    }
    FlowPass pass;
    const FlowObjective objective{.weights = weights.data(), .reconstruction = 1.3f, .beginnings = beginnings};
    REQUIRE(trainer->accumulate(engine, text.batch, {.noise = text.noise.data()}, objective, pass, nullptr).ok());
    for (auto& [name, values] : all) REQUIRE(trainer->read(engine, TrainerBuffer::gradient, name, values.data()).ok());
    return all;
}

}  // namespace

TEST_CASE("flow: the beginnings of a stack are models of their own to the gradients") {
    const FlowConfig config = small_flow_config();
    const auto last = static_cast<float>(config.flows.size() - 1);
    const float share = 0.4f;
    Engine engine(*find_backend("cpu"), 2);
    std::unique_ptr<FlowTrainer> whole;
    REQUIRE(FlowTrainer::create(engine, load(engine, config), false, whole).ok());
    const Text text(config, 2, 10);
    auto expected = gradients(engine, config, text, 0);
    for (auto& [name, values] : expected)
        for (float& x : values) x *= 1 - share;
    FlowConfig beginning = config;
    while (beginning.flows.size() > 1) {
        beginning.flows.pop_back();
        for (const auto& [name, values] :
             gradients(engine, beginning, text, 0.7f * (beginning.flows.size() == 1), whole.get()))
            for (size_t i = 0; i < values.size(); ++i) expected[name][i] += share / last * values[i];
    }
    for (const auto& [name, values] : gradients(engine, config, text, share))
        for (size_t i = 0; i < values.size(); ++i) {
            const float wanted = expected[name][i];
            CHECK_MESSAGE(std::fabs(values[i] - wanted) <= 2e-4f + 2e-4f * std::fabs(wanted), name, "[", i,
                          "]: ", values[i], ", expected ", wanted);
        }
}

TEST_CASE("flow: readouts: their gradients are right, and reach nothing else") {
    FlowConfig config = small_flow_config(2);
    for (FlowStage& stage : config.flows) stage.readout_hidden = 7;
    Engine engine(*find_backend("cpu"), 2);
    std::unique_ptr<FlowTrainer> trainer;
    REQUIRE(FlowTrainer::create(engine, load(engine, config), false, trainer).ok());
    trainer->train_readouts();
    const Text text(config, 2, 12);
    std::vector<float> weights(24);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.1f + 0.05f * static_cast<float>(i % 3);
    const auto loss = [&] {
        FlowReadings out;
        REQUIRE(trainer->readings(engine, text.batch, {.noise = text.noise.data()}, false, out, nullptr).ok());
        double sum = 0;
        for (const std::vector<float>& level : out.losses)
            for (size_t i = 0; i < level.size(); ++i) sum += static_cast<double>(weights[i]) * level[i];
        return sum;
    };
    FlowReadings out;
    REQUIRE(trainer->accumulate_readouts(engine, text.batch, {.noise = text.noise.data()}, weights.data(), out, nullptr)
                .ok());
    for (const TensorSpec& spec : trainer->tensors()) {
        std::vector<float> gradient(spec.size()), values(spec.size());
        REQUIRE(trainer->read(engine, TrainerBuffer::gradient, spec.name, gradient.data()).ok());
        if (spec.name.find(".readout.") == std::string::npos) {
            CHECK_MESSAGE(std::all_of(gradient.begin(), gradient.end(), [](float x) { return x == 0; }), spec.name);
            continue;
        }
        REQUIRE(trainer->read(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
        const size_t i = gradient.size() / 3;
        const float step = 1e-2f, before = values[i];
        double sums[2];
        for (const int side : {0, 1}) {
            values[i] = side ? before + step : before - step;
            REQUIRE(trainer->write(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
            sums[side] = loss();
        }
        values[i] = before;
        REQUIRE(trainer->write(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
        const double expected = (sums[1] - sums[0]) / (2 * static_cast<double>(step));
        CHECK_MESSAGE(std::fabs(gradient[i] - expected) <= 2e-3 + 1e-2 * std::fabs(expected), spec.name, ": ",
                      gradient[i], ", finite difference ", expected);
    }
}

TEST_CASE("flow: bad batches are refused") {
    const FlowConfig config = small_flow_config(2);
    Engine engine(*find_backend("cpu"), 1);
    const auto model = load(engine, config);
    Text text(config, 1, 12);
    const auto refusal = [&](FlowBatch batch) {
        FlowPass pass;
        const Status status = model->encode(engine, batch, {.noise = text.noise.data()}, pass, nullptr);
        CHECK(!status.ok());
        return std::string(status.text);
    };
    FlowBatch batch = text.batch;
    batch.T = 11;
    CHECK(refusal(batch).find("no multiple of the patch size, 2") != std::string::npos);
    batch = text.batch, batch.prefix = 4;
    CHECK(refusal(batch).find("prefix_conditioning") != std::string::npos);
    batch = text.batch, batch.prefix = 12;
    CHECK(refusal(batch).find("leaves nothing") != std::string::npos);
    text.ids[3] = 29;
    CHECK(refusal(text.batch).find("ids[3] is 29, expected 0 to 28") != std::string::npos);
}

TEST_CASE("flow: impossible configurations are refused") {
    FlowConfig config = small_flow_config();
    CHECK(config.validate().ok());
    config.flows[2].num_components = 3;
    CHECK(std::string(config.validate().text).find("flows[2]: an affine flow has no components") != std::string::npos);
    config = small_flow_config();
    config.flows.clear();
    CHECK(!config.validate().ok());
    config = small_flow_config();
    config.latent_size = 1;
    CHECK(std::string(config.validate().text).find("mixture-cdf needs at least 2 channels") != std::string::npos);
}

TEST_CASE("flow: a device computes what the processor computes, with recordings and without") {
    const FlowConfig config = small_flow_config(2, true, true);
    const Text text(config, 2, 16, prefix_of(config));
    Engine cpu(*find_backend("cpu"), 2);
    const auto expected_model = load(cpu, config);
    const FlowPass expected = encode(cpu, *expected_model, text.batch, {.noise = text.noise.data()});
    const std::vector<double> noise = wide(expected.states.back());
    const FlowInverse expected_back = invert(cpu, *expected_model, text.batch, noise);
    for (const std::string& name : devices()) {
        INFO("device ", name);
        Engine& engine = device_engine(name);
        const auto model = load(engine, config);
        const FlowPass pass = encode(engine, *model, text.batch, {.noise = text.noise.data()});
        for (size_t l = 0; l < pass.states.size(); ++l)
            CHECK(largest_difference(pass.states[l], expected.states[l]) <= 2e-4);
        CHECK(largest_difference(pass.nelbo, expected.nelbo) <= 2e-3);
        const FlowInverse back = invert(engine, *model, text.batch, noise);
        CHECK(largest_difference(back.state, expected_back.state) <= 5e-3);
        CHECK(back.tokens == expected_back.tokens);
        const InverseRange sweeps{
            .plans = std::vector<InversePlan>(config.flows.size(), {.method = InverseMethod::jacobi, .modules = 2})};
        CHECK(invert(engine, *model, text.batch, noise, sweeps).tokens == expected_back.tokens);
        const auto states = trace(engine, *model, text.batch, {.noise = text.noise.data()});
        CHECK(invert(engine, *model, text.batch, states.back()).state == states[0]);
    }
}

TEST_CASE("flow: training on a device follows the processor's") {
    const FlowConfig config = small_flow_config(1, false, true);
    const std::vector<double> cpu = trajectory(config, "cpu", 2);
    for (const std::string& name : devices()) {
        INFO("device ", name);
        const std::vector<double> device = trajectory(config, name.c_str(), 1);
        for (size_t i = 0; i < cpu.size(); ++i) CHECK(std::fabs(cpu[i] - device[i]) <= 1e-2 * std::fabs(cpu[i]));
    }
}
