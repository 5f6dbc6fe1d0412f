// The masked family's network under a causal mask: the autoregressive family. What is not the mask's doing is tested in masked.cpp.
#include <algorithm>
#include <cmath>
#include <string>

#include "models/gradient_check.h"
#include "models/small_model.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t B = 2, T = 37, R = B * T;

MaskedConfig causal_config(bool tied = true) {
    MaskedConfig c = small_config(tied);
    c.mask_token_id = 0;
    c.causal = true;
    return c;
}

/// What predicts the next token: ids are the targets moved by one, behind a begin token.
struct Text {
    std::vector<int32_t> targets, ids;

    explicit Text(int64_t V) : targets(random_ids(R, V)), ids(targets) {
        for (int64_t b = 0; b < B; ++b) {
            std::copy_backward(ids.begin() + b * T, ids.begin() + (b + 1) * T - 1, ids.begin() + (b + 1) * T);
            ids[b * T] = 0;
        }
    }
    MaskedBatch batch() const { return {.ids = ids.data(), .B = B, .T = T}; }
};

std::vector<float> losses_of(Engine& engine, const MaskedModel& model, const MaskedBatch& batch,
                             const std::vector<int32_t>& targets) {
    std::vector<float> losses(targets.size());
    const Status status = model.losses(engine, batch, targets.data(), -1, losses.data(), nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return losses;
}

std::unique_ptr<MaskedTrainer> trainer_of(Engine& engine, const MaskedConfig& config, Precision precision) {
    std::unique_ptr<MaskedTrainer> trainer;
    REQUIRE(MaskedTrainer::create(engine, load(engine, config, precision), false, trainer).ok());
    return trainer;
}

/// Gradients of the mean loss; the loss itself.
double accumulate(Engine& engine, MaskedTrainer& trainer, const Text& text) {
    const std::vector<float> weights(R, 1.0f / R);
    std::vector<float> losses(R);
    double sum = 0;
    const MaskedObjective objective{
        .targets = text.targets.data(), .row_weights = weights.data(), .losses = losses.data()};
    const Status status = trainer.accumulate(engine, text.batch(), objective, sum, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return sum;
}

/// Losses of ten AdamW steps on one fixed batch.
std::vector<double> trajectory(Engine& engine, Precision precision) {
    const auto trainer = trainer_of(engine, causal_config(), precision);
    const Text text(causal_config().vocab_size);
    std::vector<double> losses;
    float norm = 0;
    for (int step = 1; step <= 10; ++step) {
        losses.push_back(accumulate(engine, *trainer, text));
        REQUIRE(trainer->step(engine, {.rate = 3e-3f, .max_norm = 1, .step = step}, norm).ok());
    }
    return losses;
}

void check_close(const std::vector<double>& a, const std::vector<double>& b, double share) {
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(a[i] - b[i]) <= share * std::fabs(b[i]));
}

}  // namespace

TEST_CASE("autoregressive: a token changes the losses of what follows it, and no bit of what precedes it") {
    std::vector<std::string> names = devices();
    names.insert(names.begin(), {"cpu", "reference"});
    for (const std::string& name : names)
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            INFO("backend ", name);
            Engine engine(*find_backend(name.c_str()), 2);
            const auto model = load(engine, causal_config(), precision);
            Text text(causal_config().vocab_size);
            const std::vector<float> before = losses_of(engine, *model, text.batch(), text.targets);
            const int64_t changed = T + 20;  // in the second sequence
            text.ids[changed] = (text.ids[changed] + 1) % static_cast<int32_t>(causal_config().vocab_size);
            const std::vector<float> after = losses_of(engine, *model, text.batch(), text.targets);
            CHECK(same_bits(before.data(), after.data(), changed));
            for (int64_t r = changed; r < R; ++r) CHECK(before[r] != after[r]);
        }
}

TEST_CASE("autoregressive: a text's losses do not depend on what is beside it or comes after it") {
    Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3);
    const auto model = load(one, causal_config(), Precision::f32);
    const Text text(causal_config().vocab_size);
    const std::vector<float> all = losses_of(three, *model, text.batch(), text.targets);
    const std::vector<int32_t> own(text.targets.begin() + T, text.targets.begin() + T + 25);
    const std::vector<float> alone = losses_of(one, *model, {.ids = text.ids.data() + T, .B = 1, .T = 25}, own);
    CHECK(same_bits(alone.data(), all.data() + T, 25));
}

TEST_CASE("autoregressive: gradients are the differences of losses, in a random direction of every tensor") {
    for (const bool tied : {true, false}) {
        const MaskedConfig config = causal_config(tied);
        Engine engine(*find_backend("reference"), 1);
        const auto trainer = trainer_of(engine, config, Precision::f32);
        const Text text(config.vocab_size);
        accumulate(engine, *trainer, text);
        check_gradients(engine, *trainer, masked_tensors(config), 1000, [&] {
            std::vector<float> losses(R);
            REQUIRE(trainer->losses(engine, text.batch(), text.targets.data(), -1, false, losses.data(), nullptr).ok());
            double sum = 0;
            for (const float loss : losses) sum += loss;
            return sum / R;
        });
    }
}

TEST_CASE("autoregressive: training learns, alike on any number of threads and near the reference, and on devices") {
    Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3), reference(*find_backend("reference"), 1);
    const std::vector<double> truth = trajectory(reference, Precision::f32);
    CHECK(truth.back() < truth.front() - 0.5);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const double share = precision == Precision::f32 ? 1e-4 : 2e-2;
        const std::vector<double> cpu = trajectory(one, precision);
        CHECK(cpu == trajectory(three, precision));
        check_close(cpu, truth, share);
        for (const std::string& name : devices()) {
            INFO("device ", name);
            check_close(trajectory(device_engine(name), precision), truth, share);
        }
    }
}

TEST_CASE("autoregressive: there is no decoding session of a causal model") {
    Engine engine(*find_backend("cpu"), 1);
    std::shared_ptr<DecodeSession> session;
    DecodeSession::Options options{.B = 1, .T = 3};
    options.ids = {1, 2, 3};
    options.seeds = {7};
    const Status status =
        DecodeSession::create(load(engine, causal_config(), Precision::f32), std::move(options), session);
    CHECK(status.code == Code::unsupported);
    CHECK(std::string(status.text).find("no mask token") != std::string::npos);
}
