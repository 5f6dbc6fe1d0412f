// Decoding of the thought family: cached keys against whole passes, sequences against their batch.
#include <algorithm>

#include "models/small_thought.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

/// Prompts of several lengths, one of them longer than the window.
struct Prompts {
    explicit Prompts(const ThoughtConfig& config)
        : z(normals(1, 3 * config.latent_size())), ids(random_ids(3 * T, config.vocab_size)) {}
    static constexpr int64_t T = 19;
    std::vector<float> z;
    std::vector<int32_t> ids, lengths{4, 19, 1};
    std::vector<uint64_t> seeds{7, 8, 9};

    ContinuationTask task(int64_t tokens) const {
        return {.ids = ids.data(),
                .lengths = lengths.data(),
                .B = 3,
                .T = T,
                .z = z.data(),
                .tokens = tokens,
                .seeds = seeds.data(),
                .top_k = 20,
                .top_p = 0.95f,
                .logits = true};
    }
    /// One of them by itself.
    ContinuationTask task(int64_t tokens, int64_t b, int64_t n) const {
        ContinuationTask one = task(tokens);
        one.ids = ids.data() + b * T;
        one.lengths = nullptr;
        one.B = 1;
        one.T = lengths[b];
        one.z = z.data() + b * n;
        one.seeds = seeds.data() + b;
        return one;
    }
};

Continuation continued(Engine& engine, const ThoughtModel& model, const ContinuationTask& task) {
    Continuation out;
    const Status status = model.continue_text(engine, task, out, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return out;
}

std::vector<std::string> all_backends() {
    std::vector<std::string> names = devices();
    names.push_back("cpu");
    names.push_back("reference");
    return names;
}

}  // namespace

TEST_CASE("thought decode: cached keys give what a pass over the whole text gives") {
    const ThoughtConfig config = small_thought();
    const Prompts prompts(config);
    const int64_t tokens = 15, V = config.vocab_size, n = config.latent_size();
    for (const std::string& name : all_backends()) {
        INFO("backend ", name);
        Engine engine(*find_backend(name.c_str()), 2);
        const auto model = load(engine, config);
        const Continuation made = continued(engine, *model, prompts.task(tokens));
        for (int64_t b = 0; b < 3; ++b) {
            REQUIRE(made.tokens[b].size() == tokens);
            std::vector<int32_t> text(prompts.ids.begin() + b * Prompts::T,
                                      prompts.ids.begin() + b * Prompts::T + prompts.lengths[b]);
            const int64_t first = prompts.lengths[b] - 1;
            text.insert(text.end(), made.tokens[b].begin(), made.tokens[b].end() - 1);
            const auto T = static_cast<int64_t>(text.size());
            std::vector<float> logits(T * V);
            const ThoughtBatch batch{.ids = text.data(), .B = 1, .T = T};
            REQUIRE(model->forward(engine, batch, prompts.z.data() + b * n, {.logits = logits.data()}, nullptr).ok());
            const std::vector<float> whole(logits.begin() + first * V, logits.end());
            CHECK(largest_difference(whole, made.logits[b]) < 2e-5);
            for (int64_t t = 0; t < tokens; ++t) {
                const float* row = whole.data() + t * V;
                double sum = 0;
                for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(row[v]));
                CHECK(made.confidence[b][t] == doctest::Approx(std::exp(row[made.tokens[b][t]]) / sum).epsilon(1e-3));
            }
        }
    }
}

TEST_CASE("thought decode: a sequence's tokens do not depend on its batch or the threads") {
    const ThoughtConfig config = small_thought();
    const Prompts prompts(config);
    for (const std::string& name : all_backends())
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            INFO("backend ", name);
            Engine one(*find_backend(name.c_str()), 1), three(*find_backend(name.c_str()), 3);
            const auto model = load(one, config, precision);
            const Continuation together = continued(three, *load(three, config, precision), prompts.task(12));
            for (int64_t b = 0; b < 3; ++b) {
                const Continuation alone = continued(one, *model, prompts.task(12, b, config.latent_size()));
                CHECK(alone.tokens[0] == together.tokens[b]);
                CHECK(alone.confidence[0] == together.confidence[b]);
                CHECK(alone.logits[0] == together.logits[b]);
            }
        }
}

TEST_CASE("thought decode: temperature 0 takes the likeliest token, and seeds make texts differ") {
    const ThoughtConfig config = small_thought();
    Engine engine(*find_backend("cpu"), 1);
    const auto model = load(engine, config);
    Prompts prompts(config);
    ContinuationTask task = prompts.task(10);
    task.temperature = 0;
    const Continuation greedy = continued(engine, *model, task);
    for (int64_t b = 0; b < 3; ++b)
        for (size_t t = 0; t < 10; ++t) {
            const float* row = greedy.logits[b].data() + t * config.vocab_size;
            CHECK(greedy.tokens[b][t] == std::max_element(row, row + config.vocab_size) - row);
        }
    task.temperature = 2;
    task.top_k = 0;
    const Continuation drawn = continued(engine, *model, task);
    prompts.seeds[0] = 70;
    task = prompts.task(10);
    task.temperature = 2;
    task.top_k = 0;
    const Continuation other = continued(engine, *model, task);
    CHECK(drawn.tokens[0] != other.tokens[0]);
    CHECK(drawn.tokens[1] == other.tokens[1]);
}

TEST_CASE("thought decode: a sequence ends with the end's token, the others go on; every step is told") {
    const ThoughtConfig config = small_thought();
    Engine engine(*find_backend("cpu"), 1);
    const auto model = load(engine, config);
    const Prompts prompts(config);
    ContinuationTask task = prompts.task(12);
    const Continuation whole = continued(engine, *model, task);
    task.end_id = whole.tokens[0][3];
    std::vector<std::vector<int32_t>> told;
    task.progress = [&](const std::vector<int32_t>& tokens) { told.push_back(tokens); };
    const Continuation ended = continued(engine, *model, task);
    size_t longest = 0;
    for (int64_t b = 0; b < 3; ++b) {
        const std::vector<int32_t>& all = whole.tokens[b];
        const auto end = std::find(all.begin(), all.end(), task.end_id);
        const std::vector<int32_t> expected(all.begin(), end == all.end() ? end : end + 1);
        CHECK(ended.tokens[b] == expected);
        CHECK(ended.logits[b].size() == expected.size() * config.vocab_size);
        longest = std::max(longest, expected.size());
        for (size_t t = 0; t < told.size(); ++t) CHECK(told[t][b] == (t < expected.size() ? expected[t] : -1));
    }
    CHECK(told.size() == longest);
}

TEST_CASE("thought decode: cancelled half-way it leaves what there is") {
    const ThoughtConfig config = small_thought();
    Engine engine(*find_backend("cpu"), 1);
    const auto model = load(engine, config);
    const Prompts prompts(config);
    ContinuationTask task = prompts.task(12);
    const Continuation whole = continued(engine, *model, task);
    std::atomic<bool> cancelled{false};
    int64_t steps = 0;
    task.progress = [&](const std::vector<int32_t>&) { cancelled = ++steps == 5; };
    Continuation part;
    CHECK(model->continue_text(engine, task, part, &cancelled).code == Code::aborted);
    for (int64_t b = 0; b < 3; ++b)
        CHECK(part.tokens[b] == std::vector<int32_t>(whole.tokens[b].begin(), whole.tokens[b].begin() + 5));
}

TEST_CASE("thought decode: refusals") {
    const ThoughtConfig config = small_thought();
    Engine engine(*find_backend("cpu"), 1);
    const auto model = load(engine, config);
    Prompts prompts(config);
    Continuation out;
    const auto code = [&](const ContinuationTask& task) {
        return model->continue_text(engine, task, out, nullptr).code;
    };
    // The last token is not read: prompt and new tokens may be one more than the positions.
    CHECK(code(prompts.task(config.max_positions - 18)) == Code::ok);
    CHECK(code(prompts.task(config.max_positions - 17)) == Code::prompt_too_long);
    CHECK(code(prompts.task(0)) == Code::ok);
    prompts.lengths[1] = 20;
    CHECK(code(prompts.task(3)) == Code::invalid_argument);
    prompts.lengths[1] = 0;
    CHECK(code(prompts.task(3)) == Code::invalid_argument);
    prompts.lengths[1] = 2;
    prompts.ids[0] = 53;
    CHECK(code(prompts.task(3)) == Code::invalid_argument);
}
