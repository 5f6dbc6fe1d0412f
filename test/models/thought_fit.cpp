// The fast loop: what it promises about batches, threads, backends, masks, rest, cancellation and failure. Its values are judged by the
// golden checkpoints.
#include <algorithm>

#include "models/small_thought.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

FitTask task_of(const Texts& texts, int64_t steps = 6) {
    return {.batch = texts.batch(), .start = {.seeds = texts.seeds.data()}, .options = {.steps = steps, .score = true}};
}

bool same(const Posterior& a, const Posterior& b) {
    return a.mean == b.mean && a.log_variance == b.log_variance && a.z == b.z && a.steps == b.steps;
}

/// Row b of [B,n].
std::vector<float> row(const std::vector<float>& all, int64_t b, int64_t n) {
    return {all.begin() + b * n, all.begin() + (b + 1) * n};
}

void check_gradients(double kl_weight) {
    Engine engine(*find_backend("reference"), 1);
    const ThoughtConfig config = small_thought();
    const auto model = load(engine, config);
    const Texts texts(config, 15, {15});
    const int64_t n = config.latent_size();
    const std::vector<float> mean = normals(1, n, 0.8f), log_variance = normals(2, n, 0.3f, -1.5f);
    const std::vector<float> draws = normals(3, 2 * n);
    FitTrace trace;
    FitTask task{.batch = texts.batch(), .options = {.steps = 1, .kl_weight = kl_weight}, .trace = &trace};
    task.start = {.mean = mean.data(), .log_variance = log_variance.data(), .draws = draws.data()};
    fitted(engine, *model, task);

    const auto objective = [&](double along_mean, double along_variance, const std::vector<float>& d) {
        std::vector<float> z(n), losses(texts.T);
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) {
            const double m = mean[i] + along_mean * d[i], lv = log_variance[i] + along_variance * d[i];
            z[i] = static_cast<float>(m + draws[i] * std::exp(lv / 2));
            sum += kl_weight * (m * m + std::exp(lv) - lv - 1) / 2;
        }
        REQUIRE(model->losses(engine, texts.batch(), z.data(), losses.data(), nullptr).ok());
        for (const float nats : losses) sum += nats;
        return sum;
    };
    const int64_t layer = n / config.num_layers;
    for (int64_t i = 0; i < 2 * config.num_layers; ++i) {
        // Along a random direction within one layer's latents.
        std::vector<float> d = normals(10 + static_cast<uint32_t>(i), n);
        for (int64_t j = 0; j < n; ++j)
            if (j / layer != i % config.num_layers) d[j] = 0;
        double by_mean = 0, by_variance = 0;
        for (int64_t j = 0; j < n; ++j) {
            by_mean += trace.mean_gradient[j] * d[j];
            by_variance += trace.log_variance_gradient[j] * d[j];
        }
        const double h = 4e-3;
        CHECK(std::fabs((objective(h, 0, d) - objective(-h, 0, d)) / (2 * h) - by_mean) < 5e-3);
        CHECK(std::fabs((objective(0, h, d) - objective(0, -h, d)) / (2 * h) - by_variance) < 5e-3);
    }
}

}  // namespace

TEST_CASE("thought fit: a batch of eight is eight batches of one, on any number of threads") {
    const ThoughtConfig config = small_thought();
    const int64_t n = config.latent_size();
    const Texts texts(config, 23, {23, 1, 12, 0, 23, 22, 7, 19});
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
        Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3);
        const auto model = load(one, config, precision);
        for (const double tolerance : {0.0, 0.6}) {
            FitTask task = task_of(texts, 12);
            task.options.tolerance = tolerance;
            const Posterior together = fitted(three, *model, task);
            CHECK(same(together, fitted(one, *model, task)));
            for (int64_t b = 0; b < texts.B; ++b) {
                task.batch = texts.batch(b);
                task.start.seeds = texts.seeds.data() + b;
                const Posterior alone = fitted(one, *model, task);
                CHECK(alone.mean == row(together.mean, b, n));
                CHECK(alone.log_variance == row(together.log_variance, b, n));
                CHECK(alone.z == row(together.z, b, n));
                CHECK(alone.steps[0] == together.steps[b]);
                for (int64_t s = 0; s < alone.steps[0]; ++s)
                    CHECK(alone.cross_entropy[s][0] == together.cross_entropy[s][b]);
                CHECK(alone.cross_entropy.back()[0] == together.cross_entropy.back()[b]);
            }
        }
    }
}

TEST_CASE("thought fit: other backends fit what the reference fits") {
    const ThoughtConfig config = small_thought(false);
    const Texts texts(config, 17, {17, 9, 0});
    Engine reference(*find_backend("reference"), 1);
    const Posterior truth = fitted(reference, *load(reference, config), task_of(texts));
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    for (const std::string& name : names) {
        INFO("backend ", name);
        Engine engine(*find_backend(name.c_str()), 2);
        const auto model = load(engine, config);
        FitTask task = task_of(texts);
        const Posterior own = fitted(engine, *model, task);
        CHECK(largest_difference(own.mean, truth.mean) < 2e-4);
        CHECK(largest_difference(own.log_variance, truth.log_variance) < 2e-4);
        CHECK(largest_difference(own.z, truth.z) < 2e-4);
        for (size_t s = 0; s < truth.kl.size(); ++s) {
            CHECK(largest_difference(own.cross_entropy[s], truth.cross_entropy[s]) < 2e-3);
            CHECK(largest_difference(own.kl[s], truth.kl[s]) < 2e-3);
        }
        // Recorded, then replayed.
        task.options.repeated = true;
        for (int i = 0; i < 2; ++i) CHECK(same(own, fitted(engine, *model, task)));
    }
}

TEST_CASE("thought fit: its gradients are finite differences of its objective") {
    for (const double kl_weight : {1.0, 0.25}) {
        INFO("kl_weight ", kl_weight);
        check_gradients(kl_weight);
    }
}

TEST_CASE("thought fit: what is not scored changes nothing; with nothing scored the prior is drawn from") {
    Engine engine(*find_backend("cpu"), 2);
    const ThoughtConfig config = small_thought();
    const auto model = load(engine, config);
    Texts texts(config, 20, {9, 20, 0});
    const Posterior before = fitted(engine, *model, task_of(texts));
    for (int64_t t = 9; t < 20; ++t) texts.ids[t] = (texts.ids[t] + 1) % 53;
    const Posterior after = fitted(engine, *model, task_of(texts));
    CHECK(same(before, after));

    const int64_t n = config.latent_size();
    CHECK(before.steps == std::vector<int32_t>{6, 6, 0});
    CHECK(row(before.mean, 2, n) == std::vector<float>(n, 0.0f));
    CHECK(row(before.log_variance, 2, n) == std::vector<float>(n, 0.0f));
    double squares = 0;
    for (const float z : row(before.z, 2, n)) squares += z * z / static_cast<double>(n);
    CHECK(squares > 0.7);
    CHECK(squares < 1.4);

    // The same of a call without any target, and with draws given: the last of them is z.
    ThoughtBatch bare = texts.batch();
    bare.targets = nullptr;
    const std::vector<float> draws = normals(1, 7 * 3 * n);
    FitTask task{.batch = bare, .start = {.seeds = texts.seeds.data(), .draws = draws.data()}, .options = {.steps = 6}};
    CHECK(fitted(engine, *model, task).z == row(draws, 6, 3 * n));
    task.options.noise = FitNoise::shared;
    CHECK(fitted(engine, *model, task).z == row(draws, 0, 3 * n));
}

TEST_CASE("thought fit: a shared draw, and a log-variance that stays") {
    Engine engine(*find_backend("cpu"), 1);
    const ThoughtConfig config = small_thought();
    const auto model = load(engine, config);
    const Texts texts(config, 11, {11, 5});
    FitTrace trace;
    FitTask task = task_of(texts);
    task.trace = &trace;
    task.options.constant_log_variance = true;
    for (const FitNoise noise : {FitNoise::resample, FitNoise::shared}) {
        task.options.noise = noise;
        const Posterior p = fitted(engine, *model, task);
        CHECK(p.log_variance == trace.log_variance[0]);
        CHECK(p.mean != trace.mean[0]);
    }
    task.options.constant_log_variance = false;
    const Posterior drawn = fitted(engine, *model, task);
    // The same, with that draw given: (z - mean) / sigma of a fit is its last draw.
    std::vector<float> draw(drawn.z.size());
    for (size_t i = 0; i < draw.size(); ++i)
        draw[i] = (drawn.z[i] - drawn.mean[i]) / std::exp(drawn.log_variance[i] / 2);
    const std::vector<float> mean = trace.mean[0], log_variance = trace.log_variance[0];
    FitTask given = task;
    given.trace = nullptr;
    given.start = {.mean = mean.data(), .log_variance = log_variance.data(), .draws = draw.data()};
    CHECK(largest_difference(fitted(engine, *model, given).mean, drawn.mean) < 1e-4);
    double variance = 0;
    for (const float m : mean) variance += m * m / static_cast<double>(mean.size());
    CHECK(variance < 2e-4);
    CHECK(variance > 0.5e-4);
}

TEST_CASE("thought fit: the rates of its schedules") {
    const FitRate linear{0.3, 0.34}, cosine{0.3, 0.34, FitSchedule::cosine}, constant{0.3, 0.34, FitSchedule::constant};
    CHECK(linear.at(0, 16) == doctest::Approx(0.3));
    CHECK(linear.at(15, 16) == doctest::Approx(0.34));
    CHECK(linear.at(0, 1) == doctest::Approx(0.3));
    CHECK(cosine.at(0, 16) == doctest::Approx(0.34));
    CHECK(cosine.at(8, 16) == doctest::Approx(0.34 * 0.55));
    CHECK(constant.at(7, 16) == doctest::Approx(0.3));
}

TEST_CASE("thought fit: a sequence at rest stays as it is") {
    Engine engine(*find_backend("cpu"), 2);
    const ThoughtConfig config = small_thought();
    const auto model = load(engine, config);
    const Texts texts(config, 14, {14, 6, 0});
    FitTrace whole;
    FitTask task = task_of(texts, 20);
    task.trace = &whole;
    fitted(engine, *model, task);
    task.trace = nullptr;
    task.options.tolerance = 1e6;
    const Posterior at_once = fitted(engine, *model, task);
    const auto first = static_cast<int32_t>(2 * kFitWindow - 1);
    CHECK(at_once.steps == std::vector<int32_t>{first, first, 0});
    CHECK(at_once.kl.size() == first + 1);
    CHECK(at_once.mean == whole.mean[first]);
    CHECK(at_once.log_variance == whole.log_variance[first]);
    task.options.tolerance = 1e-12;
    CHECK(fitted(engine, *model, task).steps == std::vector<int32_t>{20, 20, 0});
}

TEST_CASE("thought fit: cancelled half-way it hands over what there is; progress comes every so many steps") {
    const ThoughtConfig config = small_thought();
    const Texts texts(config, 14, {14, 6});
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    for (const std::string& name : names) {
        INFO("backend ", name);
        Engine engine(*find_backend(name.c_str()), 2);
        const auto model = load(engine, config);
        FitTrace whole;
        FitTask task = task_of(texts, 8);
        task.trace = &whole;
        const Posterior full = fitted(engine, *model, task);
        task.trace = nullptr;
        std::atomic<bool> cancelled{false};
        std::vector<int64_t> told;
        task.progress_every = 2;
        task.progress = [&](int64_t steps, const std::vector<float>& objective) {
            told.push_back(steps);
            CHECK(objective[1] == doctest::Approx(full.cross_entropy[steps - 1][1] + full.kl[steps - 1][1]));
            cancelled = steps == 4;
        };
        Posterior part;
        CHECK(model->fit(engine, task, part, &cancelled).code == Code::aborted);
        CHECK(told == std::vector<int64_t>{2, 4});
        CHECK(part.steps == std::vector<int32_t>{4, 4});
        CHECK(part.kl.size() == 4);
        CHECK(part.mean == whole.mean[4]);
        CHECK(part.log_variance == whole.log_variance[4]);
    }
}

TEST_CASE("thought fit: an objective that is no number ends it, and the last posterior that had one is kept") {
    const ThoughtConfig config = small_thought();
    const Texts texts(config, 10, {10, 4});
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    for (const std::string& name : names) {
        INFO("backend ", name);
        Engine engine(*find_backend(name.c_str()), 2);
        const auto model = load(engine, config);
        FitTrace whole;
        FitTask task = task_of(texts, 6);
        task.trace = &whole;
        // The fourth rate throws the mean so far that its square overflows.
        task.options.rate = {.first = 0.3, .last = 0.3};
        fitted(engine, *model, task);
        task.trace = nullptr;
        for (const bool repeated : {false, true}) {
            task.options.repeated = repeated;
            task.options.rate.last = 1e30;
            Posterior kept;
            const Status status = model->fit(engine, task, kept, nullptr);
            CHECK(status.code == Code::non_finite);
            CHECK_MESSAGE(std::string(status.text).find("step 2") != std::string::npos, status.text);
            // Step 0 has the first rate: what it led to still had an objective.
            CHECK(kept.mean == whole.mean[1]);
            CHECK(kept.log_variance == whole.log_variance[1]);
        }
        std::vector<float> bad(whole.mean[0].size(), NAN);
        task.start.mean = bad.data();
        Posterior kept;
        const Status status = model->fit(engine, task, kept, nullptr);
        CHECK(status.code == Code::non_finite);
        CHECK_MESSAGE(std::string(status.text).find("step 0") != std::string::npos, status.text);
    }
}

TEST_CASE("thought fit: refusals") {
    Engine engine(*find_backend("cpu"), 1);
    const ThoughtConfig config = small_thought();
    const auto model = load(engine, config);
    const Texts texts(config, 10, {10});
    Posterior out;
    const auto refused = [&](const FitTask& task, const char* mentions) {
        const Status status = model->fit(engine, task, out, nullptr);
        CHECK(status.code == Code::invalid_argument);
        CHECK_MESSAGE(std::string(status.text).find(mentions) != std::string::npos, status.text);
    };
    FitTask task = task_of(texts);
    task.options.steps = -1;
    refused(task, "steps");
    task = task_of(texts);
    task.start.seeds = nullptr;
    refused(task, "seeds");
    task = task_of(texts);
    task.options.rate.first = NAN;
    refused(task, "rates");
    task = task_of(texts);
    task.options.tolerance = -1;
    refused(task, "tolerance");
    task = task_of(texts);
    for (const double weight : {-0.1, 1.1, static_cast<double>(NAN)}) {
        task.options.kl_weight = weight;
        refused(task, "weight");
    }
    task = task_of(texts);
    task.batch.T = config.max_positions + 1;
    CHECK(model->fit(engine, task, out, nullptr).code == Code::prompt_too_long);
}
