// The masked family's other networks: Dream's (biases, outputs that predict the next position) and MDLM's (a DiT). Values are judged by the
// golden checkpoints; here is what those do not say: gradients of Dream's, batches, threads, devices, training.
#include <algorithm>
#include <cmath>
#include <string>

#include "models/gradient_check.h"
#include "models/small_model.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t B = 2, T = 29, R = B * T;

struct Kind {
    const char* name;
    MaskedConfig config;
};

std::vector<Kind> kinds() {
    return {{"dream", small_dream()}, {"dream, tied", small_dream(true)}, {"dit", small_dit()}};
}

/// A corrupted text: every third token is known, the first one of the first sequence is not.
struct Corrupted {
    std::vector<int32_t> targets, ids;
    std::vector<float> weights;

    explicit Corrupted(const MaskedConfig& c)
        : targets(random_ids(R, c.mask_token_id)), ids(R, static_cast<int32_t>(c.mask_token_id)), weights(R, 1.0f / R) {
        for (int64_t r = 1; r < R; r += 3) {
            ids[r] = targets[r];
            targets[r] = -1;
            weights[r] = 0;
        }
    }
    MaskedBatch batch() const { return {.ids = ids.data(), .B = B, .T = T}; }
};

std::unique_ptr<MaskedTrainer> trainer_of(Engine& engine, const MaskedConfig& config, Precision precision) {
    std::unique_ptr<MaskedTrainer> trainer;
    REQUIRE(MaskedTrainer::create(engine, load(engine, config, precision), false, trainer).ok());
    return trainer;
}

double accumulate(Engine& engine, const MaskedConfig& config, MaskedTrainer& trainer, const Corrupted& text) {
    std::vector<float> losses(R);
    double sum = 0;
    const MaskedObjective objective{.targets = text.targets.data(),
                                    .row_weights = text.weights.data(),
                                    .excluded_id = config.mask_token_id,
                                    .losses = losses.data()};
    const Status status = trainer.accumulate(engine, text.batch(), objective, sum, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return sum;
}

/// Losses of ten AdamW steps on one fixed batch.
std::vector<double> trajectory(Engine& engine, const MaskedConfig& config, Precision precision) {
    const auto trainer = trainer_of(engine, config, precision);
    const Corrupted text(config);
    std::vector<double> losses;
    float norm = 0;
    for (int step = 1; step <= 10; ++step) {
        losses.push_back(accumulate(engine, config, *trainer, text));
        REQUIRE(trainer->step(engine, {.rate = 3e-3f, .max_norm = 1, .step = step}, norm).ok());
    }
    return losses;
}

void check_close(const std::vector<double>& a, const std::vector<double>& b, double share) {
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(a[i] - b[i]) <= share * std::fabs(b[i]));
}

std::vector<float> losses_of(Engine& engine, const MaskedModel& model, const MaskedBatch& batch,
                             const int32_t* targets) {
    std::vector<float> losses(batch.B * batch.T);
    const Status status = model.losses(engine, batch, targets, model.config().mask_token_id, losses.data(), nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return losses;
}

/// -log p of a target in a row of logits, without the mask token.
double loss_in(const float* logits, const MaskedConfig& config, int32_t target) {
    double sum = 0, most = -INFINITY;
    for (int64_t v = 0; v < config.vocab_size; ++v)
        if (v != config.mask_token_id) most = std::max(most, static_cast<double>(logits[v]));
    for (int64_t v = 0; v < config.vocab_size; ++v)
        if (v != config.mask_token_id) sum += std::exp(logits[v] - most);
    return most + std::log(sum) - logits[target];
}

}  // namespace

TEST_CASE("masked kinds: gradients are the differences of losses, in a random direction of every tensor") {
    for (const Kind& kind : kinds()) {
        Engine engine(*find_backend("reference"), 1);
        const auto trainer = trainer_of(engine, kind.config, Precision::f32);
        const Corrupted text(kind.config);
        accumulate(engine, kind.config, *trainer, text);
        INFO(kind.name);
        check_gradients(engine, *trainer, masked_tensors(kind.config), 1000, [&] {
            std::vector<float> losses(R);
            const Status status = trainer->losses(engine, text.batch(), text.targets.data(), kind.config.mask_token_id,
                                                  false, losses.data(), nullptr);
            REQUIRE_MESSAGE(status.ok(), status.text);
            double sum = 0;
            for (int64_t r = 0; r < R; ++r) sum += static_cast<double>(text.weights[r]) * losses[r];
            return sum;
        });
    }
}

TEST_CASE("masked kinds: training learns, alike on any number of threads and near the reference, and on devices") {
    for (const Kind& kind : kinds()) {
        INFO(kind.name);
        Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3), reference(*find_backend("reference"), 1);
        const std::vector<double> truth = trajectory(reference, kind.config, Precision::f32);
        CHECK(truth.back() < truth.front() - 0.5);
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            const double share = precision == Precision::f32 ? 1e-4 : 2e-2;
            const std::vector<double> cpu = trajectory(one, kind.config, precision);
            CHECK(cpu == trajectory(three, kind.config, precision));
            check_close(cpu, truth, share);
            for (const std::string& name : devices()) {
                INFO("device ", name);
                check_close(trajectory(device_engine(name), kind.config, precision), truth, share);
            }
        }
    }
}

TEST_CASE("masked kinds: a sequence's losses do not depend on its batch, its padding or the threads") {
    for (const Kind& kind : kinds()) {
        INFO(kind.name);
        Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3);
        const auto model = load(one, kind.config, Precision::f32);
        const Corrupted text(kind.config);
        const std::vector<int32_t> starts{0, 7}, ends{T, T - 4};
        MaskedBatch together = text.batch();
        together.key_start = starts.data(), together.key_end = ends.data();
        std::vector<int32_t> targets = text.targets;
        for (int64_t t = 0; t < T; ++t)
            if (t < starts[1] || t >= ends[1]) targets[T + t] = -1;
        targets[T + starts[1]] = 5;  // a first position, too, whatever it is predicted from
        const std::vector<float> all = losses_of(three, *model, together, targets.data());
        const int64_t length = ends[1] - starts[1];
        const MaskedBatch alone{.ids = text.ids.data() + T + starts[1], .B = 1, .T = length};
        const std::vector<float> own = losses_of(one, *model, alone, targets.data() + T + starts[1]);
        for (int64_t t = 0; t < length; ++t) CHECK(std::fabs(own[t] - all[T + starts[1] + t]) < 1e-4);
    }
}

TEST_CASE(
    "masked kinds: each position is predicted by the output before it where outputs are shifted, else by its own") {
    for (const Kind& kind : kinds()) {
        INFO(kind.name);
        Engine engine(*find_backend("cpu"), 2);
        const auto model = load(engine, kind.config, Precision::f32);
        const Corrupted text(kind.config);
        const std::vector<float> logits = logits_of(engine, *model, text.batch());
        const std::vector<float> losses = losses_of(engine, *model, text.batch(), text.targets.data());
        for (int64_t r = 0; r < R; ++r) {
            if (text.targets[r] < 0) continue;
            const int64_t from = kind.config.shifted && r % T > 0 ? r - 1 : r;
            const double expected =
                loss_in(logits.data() + from * kind.config.vocab_size, kind.config, text.targets[r]);
            CHECK(std::fabs(losses[r] - expected) < 1e-4);
        }
    }
}

TEST_CASE("masked kinds: a session's tokens and confidences are those of the logits") {
    for (const Kind& kind : kinds()) {
        INFO(kind.name);
        std::vector<std::string> names = devices();
        names.insert(names.begin(), {"cpu", "reference"});
        for (const std::string& name : names) {
            INFO("backend ", name);
            Engine engine(*find_backend(name.c_str()), 2);
            const auto model = load(engine, kind.config, Precision::f32);
            const Corrupted text(kind.config);
            const std::vector<float> logits = logits_of(engine, *model, text.batch());
            std::shared_ptr<DecodeSession> session;
            DecodeSession::Options options{.B = B, .T = T};
            options.ids = text.ids;
            options.seeds = {1, 2};
            REQUIRE(DecodeSession::create(model, std::move(options), session).ok());
            DecodeStep request;
            for (int64_t r = 0; r < R; ++r)
                if (text.targets[r] >= 0) request.rows.push_back(static_cast<int32_t>(r));
            request.draw.excluded_id = kind.config.mask_token_id;
            DecodeResult result;
            REQUIRE(session->step(engine, request, result, nullptr).ok());
            for (size_t i = 0; i < request.rows.size(); ++i) {
                const int64_t r = request.rows[i], from = kind.config.shifted && r % T > 0 ? r - 1 : r;
                const float* row = logits.data() + from * kind.config.vocab_size;
                CHECK(result.tokens[i] == std::max_element(row, row + kind.config.mask_token_id) - row);
                CHECK(std::fabs(result.confidence[i] - std::exp(-loss_in(row, kind.config, result.tokens[i]))) < 1e-4);
            }
        }
    }
}

namespace {

/// Winners are the corrupted text's targets, losers a token of their own where the position is even.
struct Pair {
    std::vector<int32_t> losers;
    std::vector<float> winner_denominators{19, 18}, loser_denominators{9, 11};
    MaskedPairs pairs;

    Pair(const MaskedConfig& config, const Corrupted& text) : losers(R, -1) {
        for (int64_t r = 0; r < R; r += 2)
            if (text.targets[r] >= 0) losers[r] = static_cast<int32_t>((text.targets[r] + 7) % config.mask_token_id);
        pairs = {.winners = text.targets.data(),
                 .losers = losers.data(),
                 .winner_denominators = winner_denominators.data(),
                 .loser_denominators = loser_denominators.data(),
                 .beta_w = 1.2f,
                 .beta_l = 0.7f,
                 .beta_a = 0.3f,
                 .gamma = 0.2f,
                 .scale = 0.5f,
                 .excluded_id = config.mask_token_id};
    }
};

/// The loss of the pairs from the losses of single tokens, written out.
double pair_loss(const Pair& p, const std::vector<float>& won, const std::vector<float>& lost) {
    double loss = 0;
    for (int64_t b = 0; b < B; ++b) {
        double W = 0, L = 0;
        for (int64_t r = b * T; r < (b + 1) * T; ++r) W -= won[r], L -= lost[r];
        W /= p.winner_denominators[b], L /= p.loser_denominators[b];
        loss += 0.5 * (std::log1p(std::exp(-(1.2f * W - 0.7f * L - 0.2f))) - 0.3f * W);
    }
    return loss;
}

PairResult accumulate_pairs(Engine& engine, MaskedTrainer& trainer, const Corrupted& text, const Pair& pair) {
    PairResult result;
    const Status status = trainer.accumulate_pairs(engine, text.batch(), pair.pairs, result, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return result;
}

}  // namespace

TEST_CASE("masked kinds: pairs' loss is that of their tokens, and its gradients are its differences") {
    std::vector<Kind> all = kinds();
    all.push_back({"llama", small_config()});
    for (const Kind& kind : all) {
        Engine engine(*find_backend("reference"), 1);
        const auto trainer = trainer_of(engine, kind.config, Precision::f32);
        const Corrupted text(kind.config);
        const Pair pair(kind.config, text);
        const auto loss = [&] {
            std::vector<float> won(R), lost(R);
            for (auto [targets, out] : {std::pair{text.targets.data(), won.data()}, {pair.losers.data(), lost.data()}})
                REQUIRE(trainer->losses(engine, text.batch(), targets, kind.config.mask_token_id, false, out, nullptr)
                            .ok());
            return pair_loss(pair, won, lost);
        };
        const PairResult result = accumulate_pairs(engine, *trainer, text, pair);
        CHECK(std::fabs(result.loss - loss()) < 1e-5);
        INFO(kind.name);
        check_gradients(engine, *trainer, masked_tensors(kind.config), 2000, loss);
    }
}

TEST_CASE("masked kinds: pairs on the cpu, whatever the threads, and on devices are the reference's") {
    const MaskedConfig config = small_config();
    const Corrupted text(config);
    const Pair pair(config, text);
    const auto gradients = [&](Engine& engine) {
        const auto trainer = trainer_of(engine, config, Precision::f32);
        const double loss = accumulate_pairs(engine, *trainer, text, pair).loss;
        std::vector<float> all{static_cast<float>(loss)};
        for (const TensorSpec& spec : masked_tensors(config)) {
            std::vector<float> gradient(spec.size());
            REQUIRE(trainer->read(engine, TrainerBuffer::gradient, spec.name, gradient.data()).ok());
            all.insert(all.end(), gradient.begin(), gradient.end());
        }
        return all;
    };
    Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3), reference(*find_backend("reference"), 1);
    const std::vector<float> truth = gradients(reference), cpu = gradients(one);
    CHECK(cpu == gradients(three));
    const auto check = [&](const std::vector<float>& some) {
        for (size_t i = 0; i < truth.size(); ++i)
            REQUIRE(std::fabs(some[i] - truth[i]) < 1e-4 + 1e-4 * std::fabs(truth[i]));
    };
    check(cpu);
    for (const std::string& name : devices()) {
        INFO("device ", name);
        check(gradients(device_engine(name)));
    }
}

TEST_CASE("masked kinds: pairs are refused where they say nothing") {
    const MaskedConfig config = small_config();
    Engine engine(*find_backend("cpu"), 1);
    const auto trainer = trainer_of(engine, config, Precision::f32);
    const Corrupted text(config);
    Pair pair(config, text);
    PairResult result;
    const auto code = [&] { return trainer->accumulate_pairs(engine, text.batch(), pair.pairs, result, nullptr).code; };
    pair.winner_denominators[1] = 0;
    CHECK(code() == Code::invalid_argument);
    pair.winner_denominators[1] = NAN;
    CHECK(code() == Code::invalid_argument);
    pair.winner_denominators[1] = 1;
    pair.losers[4] = static_cast<int32_t>(config.vocab_size);
    CHECK(code() == Code::invalid_argument);
    pair.losers[4] = 3;
    CHECK(code() == Code::ok);
}

TEST_CASE("masked kinds: what a DiT does not have is refused") {
    const auto refused = [](const std::function<void(MaskedConfig&)>& change, Code code) {
        MaskedConfig c = small_dit();
        change(c);
        CHECK(c.validate().code == code);
    };
    refused([](MaskedConfig& c) { c.num_kv_heads = 2; }, Code::unsupported);
    refused([](MaskedConfig& c) { c.tied_embeddings = true; }, Code::unsupported);
    refused([](MaskedConfig& c) { c.causal = true; }, Code::unsupported);
    refused([](MaskedConfig& c) { c.qkv_bias = true; }, Code::unsupported);
    refused([](MaskedConfig& c) { c.condition_size = 1 << 15; }, Code::bad_checkpoint);
    refused([](MaskedConfig& c) { c.condition_size = -1; }, Code::bad_checkpoint);
    CHECK(small_dit().validate().ok());
}
