// The thought family as a whole: decoder, gradients, training and bounds. Values themselves are judged by the golden checkpoints.
#include <algorithm>
#include <numeric>

#include "models/small_thought.h"
#include "native/harness.h"
#include "noema/masked_model.h"

using namespace noema;
using namespace noema::test;

namespace {

std::vector<float> logits_of(Engine& engine, const ThoughtModel& model, const ThoughtBatch& batch,
                             const std::vector<float>& z) {
    std::vector<float> logits(batch.B * batch.T * model.config().vocab_size);
    const Status status = model.forward(engine, batch, z.data(), {.logits = logits.data()}, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return logits;
}

std::unique_ptr<ThoughtTrainer> trainer_of(Engine& engine, const ThoughtConfig& config, bool average = false) {
    std::unique_ptr<ThoughtTrainer> trainer;
    REQUIRE(ThoughtTrainer::create(engine, load(engine, config), average, trainer).ok());
    return trainer;
}

/// All tensors of a buffer, by name.
std::vector<std::vector<float>> read_all(Engine& engine, const ThoughtTrainer& trainer, TrainerBuffer buffer) {
    std::vector<std::vector<float>> all;
    for (const TensorSpec& spec : trainer.tensors()) {
        all.emplace_back(spec.size());
        REQUIRE(trainer.read(engine, buffer, spec.name, all.back().data()).ok());
    }
    return all;
}

}  // namespace

TEST_CASE("thought: without the cross-attention's output it is a plain decoder") {
    ThoughtConfig config = small_thought();
    config.attention_window = 40;
    Weights weights = random_weights(config);
    for (size_t i = 0; i < weights.sources.size(); ++i)
        if (weights.sources[i].name.find("cross_o") != std::string::npos)
            std::fill(weights.values[i].begin(), weights.values[i].end(), 0.0f);
    MaskedConfig plain{.vocab_size = config.vocab_size,
                       .hidden_size = config.hidden_size,
                       .num_layers = config.num_layers,
                       .num_heads = config.num_heads,
                       .num_kv_heads = config.num_heads,
                       .intermediate_size = config.intermediate_size,
                       .max_positions = config.max_positions,
                       .tied_embeddings = true,
                       .causal = true};
    for (const char* name : {"cpu", "reference"}) {
        Engine engine(*find_backend(name), 2);
        const auto model = load(engine, config, weights);
        std::unique_ptr<MaskedModel> decoder;
        REQUIRE(MaskedModel::load(engine, plain, weights.sources, Precision::f32, decoder).ok());
        const Texts texts(config, 31, {31, 31});
        std::vector<float> expected(2 * 31 * config.vocab_size);
        REQUIRE(decoder->logits(engine, {.ids = texts.ids.data(), .B = 2, .T = 31}, expected.data(), nullptr).ok());
        const std::vector<float> z = normals(1, 2 * config.latent_size());
        CHECK(logits_of(engine, *model, texts.batch(), z) == expected);
    }
}

TEST_CASE("thought: a position sees its window, and every layer its own latents") {
    const ThoughtConfig config = small_thought();
    Engine engine(*find_backend("cpu"), 2);
    const auto model = load(engine, config);
    const int64_t T = 30, V = config.vocab_size, reach = config.num_layers * (config.attention_window - 1);
    Texts texts(config, T, {T});
    std::vector<float> z = normals(1, config.latent_size());
    const std::vector<float> before = logits_of(engine, *model, texts.batch(), z);
    texts.ids[0] = (texts.ids[0] + 1) % 53;
    const std::vector<float> after = logits_of(engine, *model, texts.batch(), z);
    const auto differs = [&](const std::vector<float>& other, int64_t t) {
        return !same_bits(before.data() + t * V, other.data() + t * V, V);
    };
    CHECK(differs(after, 0));
    CHECK(differs(after, reach));
    for (int64_t t = reach + 1; t < T; ++t) CHECK(!differs(after, t));
    texts.ids[0] = (texts.ids[0] + 52) % 53;
    for (int64_t latent = 0; latent < config.num_latents; ++latent) {
        std::vector<float> other = z;
        other[latent * config.hidden_size] += 1;
        for (const int64_t t : {int64_t{0}, T - 1}) CHECK(differs(logits_of(engine, *model, texts.batch(), other), t));
    }
}

TEST_CASE("thought: logits do not depend on the batch or the threads, and are the reference's") {
    const ThoughtConfig config = small_thought(false);
    const int64_t T = 33, V = config.vocab_size, n = config.latent_size();
    const Texts texts(config, T, {T, T, T});
    const std::vector<float> z = normals(1, 3 * n);
    Engine reference(*find_backend("reference"), 1);
    const std::vector<float> truth = logits_of(reference, *load(reference, config), texts.batch(), z);
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    for (const std::string& name : names) {
        INFO("backend ", name);
        Engine one(*find_backend(name.c_str()), 1), three(*find_backend(name.c_str()), 3);
        const auto model = load(one, config);
        const std::vector<float> all = logits_of(three, *load(three, config), texts.batch(), z);
        CHECK(largest_difference(all, truth) < 1e-4);
        for (int64_t b = 0; b < 3; ++b) {
            const std::vector<float> own{z.begin() + b * n, z.begin() + (b + 1) * n};
            CHECK(same_bits(logits_of(one, *model, texts.batch(b), own).data(), all.data() + b * T * V, T * V));
        }
    }
}

TEST_CASE("thought: what tokens weigh latents by, alike in any batch; the likeliest tokens are the logits'") {
    const ThoughtConfig config = small_thought();
    const int64_t T = 33, V = config.vocab_size, n = config.latent_size();
    const int64_t M = config.latents_per_layer(), row = config.num_heads * M;
    const Texts texts(config, T, {T, T});
    const std::vector<float> z = normals(1, 2 * n);
    using Layers = std::vector<std::vector<float>>;
    const auto attention_of = [&](Engine& engine, const ThoughtBatch& batch, const std::vector<float>& at) {
        Layers layers;
        std::vector<float> logits(batch.B * T * V);
        std::vector<int32_t> likeliest(batch.B * T);
        const ThoughtModel::Outputs outputs{
            .logits = logits.data(), .likeliest = likeliest.data(), .attention = &layers};
        REQUIRE(load(engine, config)->forward(engine, batch, at.data(), outputs, nullptr).ok());
        for (int64_t r = 0; r < batch.B * T; ++r)
            CHECK(likeliest[r] == std::max_element(&logits[r * V], &logits[r * V] + V) - &logits[r * V]);
        CHECK(logits == logits_of(engine, *load(engine, config), batch, at));
        return layers;
    };
    Engine reference(*find_backend("reference"), 1);
    const Layers truth = attention_of(reference, texts.batch(), z);
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    for (const std::string& name : names) {
        INFO("backend ", name);
        Engine engine(*find_backend(name.c_str()), 2);
        const Layers both = attention_of(engine, texts.batch(), z);
        REQUIRE(both.size() == static_cast<size_t>(config.num_layers));
        for (size_t layer = 0; layer < both.size(); ++layer) {
            REQUIRE(both[layer].size() == static_cast<size_t>(2 * T * row));
            CHECK(largest_difference(both[layer], truth[layer]) < 1e-5);
            for (size_t first = 0; first < both[layer].size(); first += M)
                CHECK(std::accumulate(&both[layer][first], &both[layer][first] + M, 0.0f) == doctest::Approx(1));
        }
        for (int64_t b = 0; b < 2; ++b) {
            const Layers one = attention_of(engine, texts.batch(b), {z.begin() + b * n, z.begin() + (b + 1) * n});
            for (size_t layer = 0; layer < both.size(); ++layer)
                CHECK(same_bits(one[layer].data(), both[layer].data() + b * T * row, T * row));
        }
    }
}

TEST_CASE("thought: weight gradients are finite differences of the loss") {
    for (const bool tied : {true, false}) {
        const ThoughtConfig config = small_thought(tied);
        Engine engine(*find_backend("reference"), 1);
        const auto trainer = trainer_of(engine, config);
        const Texts texts(config, 12, {12, 7});
        const std::vector<float> z = normals(1, 2 * config.latent_size());
        const std::vector<float> weights = normals(2, 24, 0.3f, 1.0f);
        std::vector<float> losses(24);
        Posterior none;
        const ThoughtLesson lesson{.batch = texts.batch(), .weights = weights.data(), .z = z.data()};
        REQUIRE(trainer->accumulate(engine, lesson, losses.data(), none, nullptr).ok());
        const auto loss = [&] {
            REQUIRE(trainer->losses(engine, texts.batch(), z.data(), false, losses.data(), nullptr).ok());
            double sum = 0;
            for (size_t r = 0; r < losses.size(); ++r) sum += static_cast<double>(weights[r]) * losses[r];
            return sum;
        };
        uint32_t direction = 20;
        for (const TensorSpec& spec : trainer->tensors()) {
            std::vector<float> values(spec.size()), gradient(spec.size());
            REQUIRE(trainer->read(engine, TrainerBuffer::parameter, spec.name, values.data()).ok());
            REQUIRE(trainer->read(engine, TrainerBuffer::gradient, spec.name, gradient.data()).ok());
            const std::vector<float> d = normals(direction++, spec.size());
            double along = 0, norm = 0;
            for (size_t i = 0; i < d.size(); ++i) {
                along += static_cast<double>(gradient[i]) * d[i];
                norm += static_cast<double>(gradient[i]) * gradient[i];
            }
            const float h = 2e-3f / std::sqrt(static_cast<float>(d.size())) * 8;
            const auto at = [&](float step) {
                std::vector<float> moved = values;
                for (size_t i = 0; i < d.size(); ++i) moved[i] += step * d[i];
                REQUIRE(trainer->write(engine, TrainerBuffer::parameter, spec.name, moved.data()).ok());
                return loss();
            };
            const double measured = (at(h) - at(-h)) / (2.0 * h);
            at(0);
            CHECK_MESSAGE(std::fabs(measured - along) < 2e-2 * std::sqrt(norm) + 2e-2, spec.name, ": ", measured, " ",
                          along);
        }
    }
}

TEST_CASE("thought: a fit leaves weights and gradients as they are, to the bit") {
    for (const char* name : {"cpu", "reference"}) {
        const ThoughtConfig config = small_thought();
        Engine engine(*find_backend(name), 2);
        const auto trainer = trainer_of(engine, config, true);
        const Texts texts(config, 12, {12, 7});
        const std::vector<float> weights(24, 0.1f), z = normals(1, 2 * config.latent_size());
        std::vector<float> losses(24);
        Posterior posterior;
        const ThoughtLesson lesson{.batch = texts.batch(), .weights = weights.data(), .z = z.data()};
        REQUIRE(trainer->accumulate(engine, lesson, losses.data(), posterior, nullptr).ok());
        const auto parameters = read_all(engine, *trainer, TrainerBuffer::parameter);
        const auto gradients = read_all(engine, *trainer, TrainerBuffer::gradient);
        const FitTask task{.batch = texts.batch(), .start = {.seeds = texts.seeds.data()}, .options = {.steps = 5}};
        for (const bool average : {false, true}) {
            REQUIRE(trainer->fit(engine, task, average, posterior, nullptr).ok());
            Bound bound;
            const BoundTask fresh{.batch = texts.batch(),
                                  .mean = posterior.mean.data(),
                                  .log_variance = posterior.log_variance.data(),
                                  .K = 2,
                                  .seeds = texts.seeds.data()};
            REQUIRE(trainer->bound(engine, fresh, average, bound, nullptr).ok());
        }
        CHECK(parameters == read_all(engine, *trainer, TrainerBuffer::parameter));
        CHECK(gradients == read_all(engine, *trainer, TrainerBuffer::gradient));
    }
}

TEST_CASE("thought: a lesson's fit is the model's, and on request every step of it teaches") {
    const ThoughtConfig config = small_thought();
    Engine engine(*find_backend("cpu"), 2);
    const auto trainer = trainer_of(engine, config);
    const auto model = load(engine, config);
    const Texts texts(config, 12, {12, 7});
    const std::vector<float> ones(24, 1.0f);
    std::vector<float> losses(24);
    FitTrace trace;
    FitTask task{.batch = texts.batch(), .start = {.seeds = texts.seeds.data()}, .options = {.steps = 3}};
    task.trace = &trace;
    const std::vector<float> draws = normals(1, 4 * 2 * config.latent_size());
    task.start.draws = draws.data();
    const Posterior expected = fitted(engine, *model, task);

    Posterior posterior;
    ThoughtLesson lesson{.batch = texts.batch(), .weights = ones.data(), .start = task.start, .fit = task.options};
    lesson.trajectory = true;
    REQUIRE(trainer->accumulate(engine, lesson, losses.data(), posterior, nullptr).ok());
    CHECK(largest_difference(posterior.z, expected.z) < 1e-5);
    const auto all = read_all(engine, *trainer, TrainerBuffer::gradient);

    // The same from each step's z, one after the other.
    REQUIRE(trainer->discard(engine).ok());
    lesson.trajectory = false;
    for (size_t s = 0; s < 4; ++s) {
        std::vector<float> z(trace.mean[s].size());
        for (size_t i = 0; i < z.size(); ++i)
            z[i] = trace.mean[s][i] + draws[s * z.size() + i] * std::exp(trace.log_variance[s][i] / 2);
        lesson.z = z.data();
        REQUIRE(trainer->accumulate(engine, lesson, losses.data(), posterior, nullptr).ok());
    }
    const auto sum = read_all(engine, *trainer, TrainerBuffer::gradient);
    for (size_t i = 0; i < sum.size(); ++i) {
        double norm = 0, error = 0;
        for (size_t j = 0; j < sum[i].size(); ++j) {
            norm += static_cast<double>(sum[i][j]) * sum[i][j];
            error += std::pow(static_cast<double>(sum[i][j]) - all[i][j], 2);
        }
        CHECK_MESSAGE(std::sqrt(error) <= 1e-4 * std::sqrt(norm), trainer->tensors()[i].name);
    }
}

TEST_CASE("thought: ten steps of training, the same bits on one thread and on three") {
    const ThoughtConfig config = small_thought();
    const Texts texts(config, 24, {24, 24, 15});
    const auto trajectory = [&](const char* backend, int threads) {
        Engine engine(*find_backend(backend), threads);
        const auto trainer = trainer_of(engine, config);
        std::vector<float> weights(72, 1.0f / 63), losses(72);
        std::vector<double> sums;
        for (int step = 1; step <= 10; ++step) {
            Posterior posterior;
            std::vector<uint64_t> seeds(3, 10 * step);
            ThoughtLesson lesson{.batch = texts.batch(), .weights = weights.data()};
            lesson.start.seeds = seeds.data();
            lesson.fit = {.steps = 4, .repeated = true};
            REQUIRE(trainer->accumulate(engine, lesson, losses.data(), posterior, nullptr).ok());
            float norm = 0;
            REQUIRE(trainer->step(engine, {.rate = 3e-3f, .max_norm = 1, .step = step}, norm).ok());
            double sum = 0;
            for (const float nats : losses) sum += nats / 63.0;
            sums.push_back(sum);
        }
        return sums;
    };
    const std::vector<double> one = trajectory("cpu", 1), reference = trajectory("reference", 1);
    CHECK(one == trajectory("cpu", 3));
    // Made by the reference backend.
    const double pinned[] = {3.78902, 3.45337, 3.19821, 2.99274, 2.72788, 2.50798, 2.35552, 2.21728, 2.04131, 1.84567};
    for (int i = 0; i < 10; ++i) {
        CHECK_MESSAGE(std::fabs(one[i] - pinned[i]) <= 1e-4 * pinned[i], i, ": ", one[i]);
        CHECK_MESSAGE(std::fabs(reference[i] - pinned[i]) <= 3e-5 * pinned[i], i, ": ", reference[i]);
    }
    CHECK(one[9] < one[0]);
}

TEST_CASE("thought: bounds of fresh draws") {
    const ThoughtConfig config = small_thought();
    const int64_t n = config.latent_size();
    const Texts texts(config, 12, {12, 7});
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    for (const std::string& name : names) {
        INFO("backend ", name);
        Engine engine(*find_backend(name.c_str()), 2);
        const auto model = load(engine, config);
        const std::vector<float> mean = normals(1, 2 * n, 0.5f), log_variance = normals(2, 2 * n, 0.3f, -1.0f);
        const std::vector<float> draws = normals(3, 5 * 2 * n);
        BoundTask task{.batch = texts.batch(), .mean = mean.data(), .log_variance = log_variance.data(), .K = 5};
        task.draws = draws.data();
        Bound bound;
        REQUIRE(model->bound(engine, task, bound, nullptr).ok());
        for (int64_t b = 0; b < 2; ++b) {
            CHECK(bound.nelbo_sampled[b] > bound.iwae[b]);
            double kl = 0, log_ratio = 0;
            std::vector<float> z(n), losses(12);
            for (int64_t i = 0; i < n; ++i) {
                const double m = mean[b * n + i], lv = log_variance[b * n + i], e = draws[(2 * 2 + b) * n + i];
                z[i] = static_cast<float>(m + e * std::exp(lv / 2));
                kl += (m * m + std::exp(lv) - lv - 1) / 2;
                log_ratio += (e * e + lv - static_cast<double>(z[i]) * z[i]) / 2;
            }
            REQUIRE(model->losses(engine, texts.batch(b), z.data(), losses.data(), nullptr).ok());
            double ce = 0;
            for (const float nats : losses) ce += nats;
            CHECK(bound.kl[b] == doctest::Approx(kl).epsilon(1e-5));
            CHECK(bound.cross_entropy[2 * 2 + b] == doctest::Approx(ce).epsilon(1e-5));
            CHECK(bound.log_weight[2 * 2 + b] == doctest::Approx(log_ratio - ce).epsilon(1e-5));
        }
        // Seeds draw for every sequence alone.
        task.draws = nullptr;
        task.seeds = texts.seeds.data();
        REQUIRE(model->bound(engine, task, bound, nullptr).ok());
        Bound alone;
        BoundTask second{.batch = texts.batch(1), .mean = mean.data() + n, .log_variance = log_variance.data() + n};
        second.K = 5;
        second.seeds = texts.seeds.data() + 1;
        REQUIRE(model->bound(engine, second, alone, nullptr).ok());
        CHECK(alone.nelbo[0] == bound.nelbo[1]);
        CHECK(alone.iwae[0] == bound.iwae[1]);
    }
}

TEST_CASE("thought: refusals") {
    Engine engine(*find_backend("cpu"), 1);
    const ThoughtConfig config = small_thought();
    Weights weights = random_weights(config);
    std::unique_ptr<ThoughtModel> model;
    SUBCASE("a NaN weight") {
        weights.values[3][5] = NAN;
        const Status status = ThoughtModel::load(engine, config, weights.sources, Precision::f32, model);
        CHECK(status.code == Code::non_finite);
        CHECK(std::string(status.text).find(weights.sources[3].name) != std::string::npos);
    }
    SUBCASE("latents that no layer count divides") {
        ThoughtConfig bad = config;
        bad.num_latents = 7;
        const Status status = ThoughtModel::load(engine, bad, weights.sources, Precision::f32, model);
        CHECK(status.code == Code::bad_checkpoint);
        CHECK(std::string(status.text).find("num_latents 7") != std::string::npos);
    }
    SUBCASE("more latents than the op takes, a window of nothing") {
        ThoughtConfig bad = config;
        bad.num_latents = 3 * (kMostLatents + 1);
        CHECK(bad.validate().code == Code::bad_checkpoint);
        bad = config;
        bad.attention_window = 0;
        CHECK(bad.validate().code == Code::bad_checkpoint);
    }
    SUBCASE("a missing latent embedding") {
        std::erase_if(weights.sources,
                      [](const TensorSource& s) { return s.name == "layers.1.latent_embedding.weight"; });
        CHECK(ThoughtModel::load(engine, config, weights.sources, Precision::f32, model).code == Code::bad_checkpoint);
    }
    SUBCASE("ids, targets, lengths") {
        const auto good = load(engine, config);
        Texts texts(config, 5, {5});
        const std::vector<float> z(config.latent_size());
        std::vector<float> losses(5);
        texts.targets[2] = 53;
        CHECK(good->losses(engine, texts.batch(), z.data(), losses.data(), nullptr).code == Code::invalid_argument);
        texts.targets[2] = 1;
        texts.ids[4] = -1;
        CHECK(good->losses(engine, texts.batch(), z.data(), losses.data(), nullptr).code == Code::invalid_argument);
    }
}
