// Ancestral draws from the flow that faces the noise.
#include <cmath>

#include "models/small_flow.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t kMixtures = 2;
FlowConfig config_of(int64_t mixture, int64_t P = 1) {
    FlowConfig config = small_flow_config(P, false, true);
    const FlowStage stage = config.flows[mixture == 0 ? 3 : 1];
    config.flows = {config.flows[2], stage};
    return config;
}

struct Request {
    Request(const FlowConfig& config, int64_t B, int64_t T)
        : ids(B * T), u(wide(random_normals(B * (T - 2 * config.patch_size) * config.latent_size, 3))), seeds(B) {
        for (int64_t b = 0; b < B; ++b) seeds[b] = 100 + b;
        batch = {.ids = ids.data(), .B = B, .T = T, .prefix = 2 * config.patch_size};
    }
    std::vector<int32_t> ids;
    std::vector<double> u;
    std::vector<uint64_t> seeds;
    FlowBatch batch;
};

Status draw(Engine& engine, const FlowModel& model, const Request& r, AncestralDraw way, FlowInverse& out,
            InverseRange range = {}) {
    way.seeds = r.seeds.data();
    range.ancestral = way;
    return model.invert(engine, r.batch, r.u.data(), range, out, nullptr);
}

FlowInverse drawn(Engine& engine, const FlowModel& model, const Request& r, AncestralDraw way = {},
                  InverseRange range = {}) {
    FlowInverse out;
    const Status status = draw(engine, model, r, way, out, range);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return out;
}

}  // namespace

TEST_CASE("flow: a draw depends on its own seed and noise, not on batch, threads or backend") {
    for (int64_t mixture = 0; mixture < kMixtures; ++mixture)
        for (const int64_t P : {1, 2}) {
            const FlowConfig config = config_of(mixture, P);
            Engine one(*find_backend("cpu"), 1), three(*find_backend("cpu"), 3),
                reference(*find_backend("reference"), 1);
            const auto model = load(one, config), slow = load(reference, config);
            const Request all(config, 3, 12 * P);
            const FlowInverse together = drawn(three, *model, all);
            const int64_t n = static_cast<int64_t>(all.u.size()) / 3;
            for (int64_t b = 0; b < 3; ++b) {
                Request alone(config, 1, 12 * P);
                alone.seeds[0] = all.seeds[b];
                alone.u.assign(all.u.begin() + b * n, all.u.begin() + (b + 1) * n);
                CHECK(same_bits(drawn(one, *model, alone).state.data(), together.state.data() + b * n, n));
            }
            const FlowInverse again = drawn(reference, *slow, all);
            for (size_t i = 0; i < again.state.size(); ++i) CHECK(std::fabs(again.state[i] - together.state[i]) < 1e-3);
            Request other = all;
            other.batch.ids = other.ids.data();
            other.seeds[1] = 7;
            const FlowInverse changed = drawn(one, *model, other);
            CHECK(same_bits(changed.state.data(), together.state.data(), n));
            CHECK(!same_bits(changed.state.data() + n, together.state.data() + n, n));
        }
}

TEST_CASE("flow: a device draws what the processor draws") {
    for (int64_t mixture = 0; mixture < kMixtures; ++mixture) {
        const FlowConfig config = config_of(mixture, 2);
        Engine cpu(*find_backend("cpu"), 1);
        const Request r(config, 2, 12);
        const FlowInverse expected = drawn(cpu, *load(cpu, config), r);
        for (const std::string& name : devices()) {
            INFO("device ", name);
            Engine& engine = device_engine(name);
            const FlowInverse found = drawn(engine, *load(engine, config), r);
            for (size_t i = 0; i < found.state.size(); ++i) CHECK(std::fabs(found.state[i] - expected.state[i]) < 2e-3);
        }
    }
}

// Where the values come from the right mixture, the flow's own forward pass makes base noise of them.
TEST_CASE("flow: what is drawn goes forward to base noise") {
    for (int64_t mixture = 0; mixture < kMixtures; ++mixture)
        for (const int64_t P : {1, 2}) {
            const FlowConfig config = config_of(mixture, P);
            Engine engine(*find_backend("cpu"), 2);
            const auto model = load(engine, config);
            const Request r(config, 32, 60 * P);
            const FlowInverse found = drawn(engine, *model, r);
            FlowTrace trace;
            REQUIRE(model->trace(engine, r.batch, {.given = found.state.data()}, trace, nullptr).ok());
            const std::vector<double>& u = trace.states.back();
            double mean = 0, square = 0, fourth = 0;
            for (const double x : u) mean += x, square += x * x, fourth += x * x * x * x;
            const double n = static_cast<double>(u.size());
            CHECK(std::fabs(mean / n) < 5 / std::sqrt(n));
            CHECK(std::fabs(square / n - 1) < 5 * std::sqrt(2 / n));
            CHECK(std::fabs(fourth / n - 3) < 5 * std::sqrt(96 / n));
        }
}

TEST_CASE("flow: weights are cut and tempered as a vocabulary's") {
    const FlowConfig config = config_of(0);
    Engine engine(*find_backend("cpu"), 2);
    const auto model = load(engine, config);
    const Request r(config, 4, 40);
    const auto likeliest = drawn(engine, *model, r, {.temperature = 0}).state;
    CHECK(drawn(engine, *model, r, {.top_k = 1}).state == likeliest);
    CHECK(drawn(engine, *model, r, {.top_p = 1e-6f}).state == likeliest);
    CHECK(drawn(engine, *model, r).state != likeliest);
    CHECK(drawn(engine, *model, r, {.temperature = 1e-4f}).state == likeliest);
}

TEST_CASE("flow: positions that are fixed are not drawn") {
    FlowConfig config = config_of(0);
    config.flows.erase(config.flows.begin());
    Engine engine(*find_backend("cpu"), 1);
    const auto model = load(engine, config);
    const Request r(config, 1, 12);
    const int64_t N = 10, c = config.channels();
    std::vector<uint8_t> fixed(N);
    fixed[4] = 1;
    const std::vector<double> given(N * c, 0.5);
    const FlowInverse found = drawn(engine, *model, r, {}, {.fixed = fixed.data(), .given = given.data()});
    CHECK(same_bits(found.state.data() + 4 * c, given.data() + 4 * c, c));
    CHECK(found.state[5 * c] != 0.5);
}

TEST_CASE("flow: draws that cannot be made are refused") {
    Engine engine(*find_backend("cpu"), 1);
    FlowConfig config = config_of(0);
    const auto model = load(engine, config);
    const Request r(config, 1, 12);
    FlowInverse out;
    CHECK(draw(engine, *model, r, {}, out, {.from = 1}).code == Code::invalid_argument);
    CHECK(draw(engine, *model, r, {}, out, {.check = true}).ok());
    CHECK((out.residuals[0].size() == 1 && out.residuals[1].empty()));
    InverseRange swept;
    swept.plans.assign(2, {.method = InverseMethod::jacobi});
    CHECK(draw(engine, *model, r, {}, out, swept).code == Code::invalid_argument);
    CHECK(draw(engine, *model, r, {.top_p = 0}, out).code == Code::invalid_argument);
    CHECK(draw(engine, *model, r, {.temperature = -1}, out).code == Code::invalid_argument);
    const FlowConfig scalars = config_of(1);
    CHECK(draw(engine, *load(engine, scalars), r, {.top_k = 3}, out).code == Code::unsupported);
    std::swap(config.flows[0], config.flows[1]);
    CHECK(draw(engine, *load(engine, config), r, {}, out).code == Code::unsupported);
}
