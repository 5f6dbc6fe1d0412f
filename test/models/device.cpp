// The masked family on devices with memory of their own: the values of the processor, recordings that change nothing, and what happens when
// the device fails.
#include <algorithm>
#include <cstdlib>
#include <thread>

#include "models/small_model.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t T = 29;

DecodeSession::Options canvas(int64_t B, float guidance = 0) {
    DecodeSession::Options o{.B = B, .T = T, .guidance = guidance};
    o.ids.assign(B * T, 66);
    for (int64_t b = 0; b < B; ++b) {
        for (int64_t i = 0; i < 4; ++i) o.ids[b * T + i] = static_cast<int32_t>(7 * b + 3 * i);
        o.seeds.push_back(100 + b);
        for (int64_t i = 0; i < T; ++i) o.prompt.push_back(i < 4);
    }
    return o;
}

/// What a generation could ask for, one kind after the other.
DecodeStep request_of(int64_t step, std::vector<int32_t> rows) {
    DecodeStep request{.step = step, .rows = std::move(rows)};
    request.draw.excluded_id = 66;
    switch (step % 4) {
        case 0: request.draw.kind = DrawKind::gumbel; break;
        case 1:
            request.draw.kind = DrawKind::categorical;
            request.draw.top_k = 9;
            request.entropy = request.margin = true;
            break;
        case 2: request.neighbourhood = {.kernel = 5}; break;
        case 3:
            request.convolution.neighbourhood = {.kernel = 5};
            request.convolution.candidates = 3;
            request.convolution.move = 0.3f;
            request.convolution.stay = 0.2f;
            break;
    }
    return request;
}

struct Trace {
    std::vector<int32_t> canvas;
    std::vector<float> numbers;
    bool operator==(const Trace&) const = default;
};

/// A generation of two sequences in which each step commits its first rows.
Trace generate(const Backend& backend, Precision precision, float guidance = 0) {
    Engine engine(backend, 2);
    const auto model = load(engine, small_config(), precision);
    std::shared_ptr<DecodeSession> session;
    REQUIRE(DecodeSession::create(model, canvas(2, guidance), session).ok());
    Trace trace;
    for (int64_t step = 0; step < 12; ++step) {
        std::vector<int32_t> rows;
        const std::vector<int32_t> ids = session->canvas();
        for (size_t r = 0; r < ids.size(); ++r)
            if (ids[r] == 66) rows.push_back(static_cast<int32_t>(r));
        if (rows.empty()) break;
        DecodeResult result;
        // Twice: the second time, with other draws, is a replay where steps are recorded.
        for (const int64_t number : {step + 100, step}) {
            const Status status = session->step(engine, request_of(number, rows), result, nullptr);
            REQUIRE_MESSAGE(status.ok(), status.text);
            REQUIRE(result.tokens.size() == rows.size());
            for (const auto* list : {&result.confidence, &result.entropy, &result.margin, &result.neighbourhood})
                trace.numbers.insert(trace.numbers.end(), list->begin(), list->end());
        }
        rows.resize(std::min<size_t>(rows.size(), 5));
        result.tokens.resize(rows.size());
        REQUIRE(session->set(rows, result.tokens).ok());
    }
    trace.canvas = session->canvas();
    return trace;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) most = std::max(most, std::fabs(double{a[i]} - b[i]));
    return most;
}

}  // namespace

TEST_CASE("device: a generation is the processor's, with recordings and without") {
    for (const std::string& name : devices()) {
        INFO("device ", name);
        const Backend& device = *find_backend(name.c_str());
        Backend plain = device;
        plain.begin_recording = nullptr;
        for (const float guidance : {0.0f, 1.5f}) {
            const Trace recorded = generate(device, Precision::f32, guidance);
            CHECK(recorded == generate(plain, Precision::f32, guidance));
            const Trace expected = generate(*find_backend("cpu"), Precision::f32, guidance);
            CHECK(recorded.canvas == expected.canvas);
            CHECK(largest_difference(recorded.numbers, expected.numbers) < 1e-4);
        }
        CHECK(generate(device, Precision::bf16) == generate(plain, Precision::bf16));
    }
}

TEST_CASE("device: a sequence's logits do not depend on its batch") {
    const MaskedConfig config = small_config();
    for (const std::string& name : devices())
        for (const Precision precision : {Precision::f32, Precision::bf16}) {
            INFO("device ", name);
            Engine& engine = device_engine(name);
            const auto model = load(engine, config, precision);
            const int64_t length = 70, V = config.vocab_size;
            const std::vector<int32_t> ids = random_ids(3 * length, V), ends{70, 65, 13};
            const std::vector<float> all =
                logits_of(engine, *model, {.ids = ids.data(), .B = 3, .T = length, .key_end = ends.data()});
            for (int64_t b = 0; b < 3; ++b) {
                const std::vector<float> own =
                    logits_of(engine, *model, {.ids = ids.data() + b * length, .B = 1, .T = ends[b]});
                CHECK(same_bits(own.data(), all.data() + b * length * V, ends[b] * V));
            }
        }
}

TEST_CASE("device: two engines at once, each with its own stream") {
    for (const std::string& name : devices()) {
        const Backend& device = *find_backend(name.c_str());
        Trace one, other;
        std::thread beside([&] {
            try {
                one = generate(device, Precision::f32);
            } catch (...) {  // a failed REQUIRE: reported already, and `one` is empty
            }
        });
        other = generate(device, Precision::f32);
        beside.join();
        CHECK(one == other);
    }
}

// These need a device that is small or breaks: NOEMA_EMULATED_MEMORY, NOEMA_EMULATED_LOSS (test/device-faults.test.ts sets them).
TEST_CASE("device faults: out of memory is an error, and the engine goes on") {
    if (!std::getenv("NOEMA_EMULATED_MEMORY")) return;
    Engine& engine = device_engine("cuda-emulated");
    const auto model = load(engine, small_config(), Precision::f32);
    const std::vector<int32_t> ids = random_ids(200 * 200, 67);
    std::vector<float> out(200 * 200 * 67);
    const Status status = model->logits(engine, {.ids = ids.data(), .B = 200, .T = 200}, out.data(), nullptr);
    CHECK(status.code == Code::out_of_memory);
    CHECK_MESSAGE(std::string(status.text).find("bytes") != std::string::npos, status.text);
    CHECK(model->logits(engine, {.ids = ids.data(), .B = 1, .T = 20}, out.data(), nullptr).ok());
}

TEST_CASE("device faults: a device that is lost is an error for everybody who comes after, and the process lives") {
    if (!std::getenv("NOEMA_EMULATED_LOSS")) return;
    Engine& engine = device_engine("cuda-emulated");
    const MaskedConfig config = small_config();
    const Weights w = random_weights(config);
    std::unique_ptr<MaskedModel> model;
    Status status;
    for (int i = 0; i < 20 && status.ok(); ++i)
        status = MaskedModel::load(engine, config, w.sources, Precision::f32, model);
    CHECK(status.code == Code::device_unavailable);
    CHECK_MESSAGE(std::string(status.text).find("lost") != std::string::npos, status.text);
    CHECK(!MaskedModel::load(engine, config, w.sources, Precision::f32, model).ok());
}
