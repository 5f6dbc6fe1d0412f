// The masked family as a whole: promises that no single op can keep. Values themselves are judged by the golden checkpoints.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "models/small_model.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

TEST_CASE("masked: a sequence's logits do not depend on its batch, its padding or the threads") {
    const MaskedConfig config = small_config();
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3);
        const auto model = load(one, config, precision);
        const int64_t T = 150, V = config.vocab_size;
        const std::vector<int32_t> ids = random_ids(3 * T, V);
        const std::vector<int32_t> ends{150, 131, 40};
        const MaskedBatch together{.ids = ids.data(), .B = 3, .T = T, .key_end = ends.data()};
        const std::vector<float> all = logits_of(three, *model, together);
        for (int64_t b = 0; b < 3; ++b) {
            const MaskedBatch alone{.ids = ids.data() + b * T, .B = 1, .T = ends[b]};
            const std::vector<float> own = logits_of(one, *model, alone);
            CHECK(same_bits(own.data(), all.data() + b * T * V, ends[b] * V));
        }
    }
}

TEST_CASE("masked: the cpu backend computes what the reference backend computes") {
    for (const bool tied : {true, false}) {
        const MaskedConfig config = small_config(tied);
        Engine cpu(*find_backend("cpu"), 2), reference(*find_backend("reference"), 1);
        const auto fast = load(cpu, config, Precision::f32), truth = load(reference, config, Precision::f32);
        const std::vector<int32_t> ids = random_ids(2 * 37, config.vocab_size);
        const MaskedBatch batch{.ids = ids.data(), .B = 2, .T = 37};
        const std::vector<float> a = logits_of(cpu, *fast, batch), b = logits_of(reference, *truth, batch);
        double worst = 0, rms = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            worst = std::max(worst, std::fabs(static_cast<double>(a[i]) - b[i]));
            rms += static_cast<double>(b[i]) * b[i] / b.size();
        }
        CHECK(worst <= 1e-5 * std::sqrt(rms) + 1e-6);
    }
}

namespace {

/// Losses of ten AdamW steps on one fixed batch.
std::vector<double> trajectory(const char* backend, int threads, Precision precision) {
    const MaskedConfig config = small_config();
    Engine engine(*find_backend(backend), threads);
    const auto model = load(engine, config, precision);
    std::unique_ptr<MaskedTrainer> trainer;
    REQUIRE(MaskedTrainer::create(engine, model, true, trainer).ok());
    const int64_t R = 2 * 33;
    const std::vector<int32_t> targets = random_ids(R, 66);
    std::vector<int32_t> noisy(R, 66);
    for (int64_t r = 0; r < R; r += 3) noisy[r] = targets[r];
    const std::vector<float> weights(R, 1.0f / R);
    std::vector<float> row_losses(R);
    std::vector<double> losses;
    for (int step = 1; step <= 10; ++step) {
        double sum = 0;
        float norm = 0;
        const MaskedObjective objective{
            .targets = targets.data(), .row_weights = weights.data(), .excluded_id = 66, .losses = row_losses.data()};
        REQUIRE(trainer->accumulate(engine, {.ids = noisy.data(), .B = 2, .T = 33}, objective, sum, nullptr).ok());
        REQUIRE(trainer->step(engine, {.rate = 3e-3f, .max_norm = 1, .ema_decay = 0.9f, .step = step}, norm).ok());
        losses.push_back(sum);
    }
    return losses;
}

}  // namespace

TEST_CASE("masked: the ten-step loss trajectory is the pinned one, the same bits on one thread and on three") {
    // Made by the reference backend; f32 kernels stay within rounding of it, bf16 products within theirs.
    const double pinned[] = {4.64003, 4.02214, 3.55936, 3.2781, 2.99324, 2.72405, 2.50543, 2.32604, 2.13478, 1.95625};
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const std::vector<double> one = trajectory("cpu", 1, precision), three = trajectory("cpu", 3, precision);
        CHECK(one == three);
        const double tolerance = precision == Precision::f32 ? 2e-5 : 1e-2;
        for (int i = 0; i < 10; ++i)
            CHECK_MESSAGE(std::fabs(one[i] - pinned[i]) <= tolerance * pinned[i], i, ": ", one[i]);
    }
    const std::vector<double> reference = trajectory("reference", 1, Precision::f32);
    for (int i = 0; i < 10; ++i)
        CHECK_MESSAGE(std::fabs(reference[i] - pinned[i]) <= 3e-6 * pinned[i], i, ": ", reference[i]);
}

TEST_CASE("masked: a step over a gradient that is not finite is refused and changes nothing") {
    for (const char* backend : {"cpu", "reference"}) {
        const MaskedConfig config = small_config();
        Engine engine(*find_backend(backend), 2);
        std::unique_ptr<MaskedTrainer> trainer;
        REQUIRE(MaskedTrainer::create(engine, load(engine, config, Precision::f32), true, trainer).ok());
        const TensorSpec spec = masked_tensors(config).front();
        std::vector<float> gradient(spec.size(), 0.5f);
        const auto state = [&] {
            std::vector<float> all;
            for (const TrainerBuffer b :
                 {TrainerBuffer::parameter, TrainerBuffer::m, TrainerBuffer::v, TrainerBuffer::average})
                for (const TensorSpec& t : masked_tensors(config)) {
                    std::vector<float> values(t.size());
                    REQUIRE(trainer->read(engine, b, t.name, values.data()).ok());
                    all.insert(all.end(), values.begin(), values.end());
                }
            return all;
        };
        float norm = 0;
        const auto step = [&](float max_norm) {
            REQUIRE(trainer->write(engine, TrainerBuffer::gradient, spec.name, gradient.data()).ok());
            return trainer->step(engine, {.rate = 0.1f, .max_norm = max_norm, .ema_decay = 0.9f, .step = 1}, norm);
        };
        REQUIRE(step(1).ok());
        const std::vector<float> before = state();
        for (const float bad : {NAN, INFINITY})
            for (const float max_norm : {0.0f, 1.0f}) {
                gradient[3] = bad;
                CHECK(step(max_norm).code == Code::non_finite);
                CHECK(state() == before);
            }
        gradient[3] = 0.5f;
        CHECK(step(1).ok());
        CHECK(state() != before);
    }
}

TEST_CASE("masked: refusals") {
    Engine engine(*find_backend("cpu"), 1);
    const MaskedConfig config = small_config();
    Weights w = random_weights(config);
    std::unique_ptr<MaskedModel> model;
    SUBCASE("a missing tensor") {
        w.sources.pop_back();
        CHECK(MaskedModel::load(engine, config, w.sources, Precision::f32, model).code == Code::bad_checkpoint);
    }
    SUBCASE("a wrong shape") {
        w.sources[1].shape = {48, 47};
        CHECK(MaskedModel::load(engine, config, w.sources, Precision::f32, model).code == Code::bad_checkpoint);
    }
    SUBCASE("a NaN weight") {
        w.values[2][5] = NAN;
        const Status status = MaskedModel::load(engine, config, w.sources, Precision::f32, model);
        CHECK(status.code == Code::non_finite);
        CHECK(std::string(status.text).find("layers.0.k.weight") != std::string::npos);
    }
    SUBCASE("an absurd configuration") {
        MaskedConfig bad = config;
        bad.num_kv_heads = 3;
        CHECK(MaskedModel::load(engine, bad, w.sources, Precision::f32, model).code == Code::bad_checkpoint);
    }
    SUBCASE("heads wider than attention takes") {
        MaskedConfig bad = config;
        bad.hidden_size = 4 * (kWidestHead + 2);
        const Status status = bad.validate();
        CHECK(status.code == Code::bad_checkpoint);
        CHECK(std::string(status.text).find("256") != std::string::npos);
    }
    SUBCASE("ids and lengths") {
        const auto good = load(engine, config, Precision::f32);
        std::vector<int32_t> ids(300, 1);
        std::vector<float> out(300 * 67);
        CHECK(good->logits(engine, {.ids = ids.data(), .B = 1, .T = 300}, out.data(), nullptr).code ==
              Code::prompt_too_long);
        CHECK(good->logits(engine, {.ids = ids.data(), .B = int64_t{1} << 30, .T = 2}, out.data(), nullptr).code ==
              Code::invalid_argument);
        ids[3] = 67;
        CHECK(good->logits(engine, {.ids = ids.data(), .B = 1, .T = 30}, out.data(), nullptr).code ==
              Code::invalid_argument);
    }
    SUBCASE("cancellation") {
        const auto good = load(engine, config, Precision::f32);
        const std::vector<int32_t> ids(30, 1);
        std::vector<float> out(30 * 67);
        const std::atomic<bool> cancelled{true};
        CHECK(good->logits(engine, {.ids = ids.data(), .B = 1, .T = 30}, out.data(), &cancelled).code == Code::aborted);
    }
}
