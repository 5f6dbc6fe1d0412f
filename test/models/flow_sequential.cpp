// The sequential inverse as one op against the ops one by one, which a jacobi plan of one module per position takes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "models/small_flow.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

struct Job {
    FlowConfig config;
    Precision precision = Precision::f32;
    int64_t B = 3, N = 12;
    InverseRange range = {};

    int64_t prefix() const { return config.prefix_conditioning ? 5 * config.patch_size : 0; }
    int64_t T() const { return prefix() + N * config.patch_size; }
    int64_t values() const { return B * N * config.channels(); }
};

FlowInverse invert(Engine& engine, const Job& job, bool one_by_one = false) {
    const auto model = load(engine, job.config, job.precision);
    const std::vector<int32_t> ids = random_ids(job.B * job.T(), job.config.vocab_size);
    const std::vector<double> u = wide(random_normals(job.values(), 4));
    InverseRange range = job.range;
    if (one_by_one) range.plans.assign(job.config.flows.size(), {.method = InverseMethod::jacobi, .modules = job.N});
    FlowInverse out;
    const FlowBatch batch{.ids = ids.data(), .B = job.B, .T = job.T(), .prefix = job.prefix()};
    const Status status = model->invert(engine, batch, u.data(), range, out, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.text);
    return out;
}

FlowInverse invert(const Job& job, int threads, bool one_by_one = false) {
    Engine engine(*find_backend("cpu"), threads);
    return invert(engine, job, one_by_one);
}

struct Difference {
    double worst = 0, mean = 0;
};
Difference difference(const std::vector<double>& a, const std::vector<double>& b) {
    REQUIRE(a.size() == b.size());
    Difference d;
    for (size_t i = 0; i < a.size(); ++i) {
        const double error = std::fabs(a[i] - b[i]);
        if (!(error <= d.worst)) d.worst = error;
        d.mean += error / static_cast<double>(a.size());
    }
    return d;
}

/// Inverses of mixtures are steep between clusters: a rounding grows a thousandfold there, and one of bf16 may lead to another
/// cluster. So those of bf16 are judged on average.
void check_alike(const Job& job, const std::vector<double>& a, const std::vector<double>& b) {
    const bool steep = job.config.flows[0].kind == FlowKind::mixture_rosenblatt;
    const Difference d = difference(a, b);
    if (job.precision == Precision::f32) CHECK(d.worst <= (steep ? 2e-2 : 1e-4));
    CHECK(d.mean <= (job.precision == Precision::bf16 ? 1e-2 : steep ? 1e-4 : 1e-5));
}

/// One flow of each kind alone.
std::vector<FlowConfig> single_flows(const std::vector<int64_t>& patches = {1, 2, 3}) {
    std::vector<FlowConfig> all;
    for (const int64_t P : patches) {
        const FlowConfig whole = small_flow_config(P, false, P == 2);
        for (const FlowStage& stage : whole.flows) {
            all.push_back(whole);
            all.back().flows = {stage};
        }
    }
    return all;
}

/// Widths beyond one slice of F, one chunk of K and one group of lines.
FlowConfig wider(FlowConfig config) {
    config.hidden_size = 104, config.num_heads = 4, config.intermediate_size = 160;
    return config;
}

}  // namespace

TEST_CASE("flow: the sequential inverse in one op finds what its ops find one by one") {
    EachIsa each;
    for (const std::string& isa : each.names) {
        EachIsa::use(isa);
        for (const FlowConfig& config : single_flows())
            for (const Precision precision : {Precision::f32, Precision::bf16}) {
                const Job job{config, precision};
                INFO(isa, ", kind ", static_cast<int>(config.flows[0].kind), ", P ", config.patch_size);
                const FlowInverse fused = invert(job, 2), plain = invert(job, 2, true);
                check_alike(job, fused.state, plain.state);
                CHECK(fused.state == plain.state);
                CHECK(fused.sweeps == plain.sweeps);
            }
    }
}

namespace {

void check_device(const std::string& device, const Job& job) {
    INFO(device, ", kind ", static_cast<int>(job.config.flows[0].kind), ", P ", job.config.patch_size);
    Engine& engine = device_engine(device);
    const FlowInverse fused = invert(engine, job);
    for (const int64_t modules : {int64_t{1}, int64_t{2}, job.N}) {
        INFO(modules, " modules");
        Job swept = job;
        swept.range.plans.assign(job.config.flows.size(), {.method = InverseMethod::jacobi, .modules = modules});
        const FlowInverse found = invert(engine, swept);
        CHECK(found.state == fused.state);
        CHECK(found.tokens == fused.tokens);
        if (modules == job.N) CHECK(found.sweeps == fused.sweeps);
    }
}

}  // namespace

TEST_CASE("flow: sweeps on a device come to rest at the sequential inverse, to the bit") {
    FlowConfig many = single_flows().front();  // components, so that each position's search is a launch of its own
    many.flows[0].num_components = 4100;
    for (const std::string& device : devices()) {
        for (const FlowConfig& config : single_flows())
            for (const Precision precision : {Precision::f32, Precision::bf16})
                check_device(device, {config, precision, 3, 5});
        check_device(device, {many, Precision::f32, 2, 2});
    }
}

TEST_CASE("flow: the sequential inverse does not depend on threads or the batch") {
    for (const FlowConfig& config : single_flows()) {
        const Job job{config};
        const FlowInverse one = invert(job, 1);
        for (const int threads : {2, 3, 5, 9}) CHECK(invert(job, threads).state == one.state);
        const std::vector<double> alone = invert({config, Precision::f32, 1}, 2).state;
        CHECK(same_bits(alone.data(), one.state.data(), static_cast<int64_t>(alone.size())));
    }
}

TEST_CASE("flow: the sequential inverse of a device does not depend on the batch") {
    for (const std::string& device : devices()) {
        Engine& engine = device_engine(device);
        for (const FlowConfig& config : single_flows({1, 2})) {
            INFO(device, ", kind ", static_cast<int>(config.flows[0].kind), ", P ", config.patch_size);
            const Precision precision = config.patch_size == 1 ? Precision::f32 : Precision::bf16;
            const Job job{wider(config), precision, 17, 2}, one{wider(config), precision, 1, 2};
            const std::vector<double> all = invert(engine, job).state, alone = invert(engine, one).state;
            CHECK(same_bits(alone.data(), all.data(), static_cast<int64_t>(alone.size())));
        }
    }
}

TEST_CASE("flow: the sequential inverse of a device does not depend on its number of multiprocessors") {
    if (!find_backend("cuda-emulated")) return;
    const auto with_blocks = [](const char* count, const Job& job) {
        setenv("NOEMA_EMULATED_MULTIPROCESSORS", count, 1);
        Engine engine(*find_backend("cuda-emulated"), 0);
        const FlowInverse found = invert(engine, job);
        unsetenv("NOEMA_EMULATED_MULTIPROCESSORS");
        return found.state;
    };
    for (const FlowConfig& config : single_flows({1, 2})) {
        const Job job{wider(config), config.patch_size == 1 ? Precision::bf16 : Precision::f32, 3, 2};
        const std::vector<double> one = with_blocks("1", job);
        for (const char* count : {"5", "13"}) CHECK(with_blocks(count, job) == one);
    }
}

namespace {

void check_fixed(Engine& engine, Job job) {
    const std::vector<double> given = wide(random_normals(job.values(), 8));
    std::vector<uint8_t> fixed(job.B * job.N);
    for (size_t i = 0; i < fixed.size(); ++i) fixed[i] = i % 7 == 3;
    job.range = {.fixed = fixed.data(), .given = given.data()};
    const FlowInverse fused = invert(engine, job), plain = invert(engine, job, true);
    check_alike(job, fused.state, plain.state);
    const int64_t c = job.config.channels();
    for (size_t i = 3; i < fixed.size(); i += 7) CHECK(same_bits(&fused.state[i * c], &given[i * c], c));
}

void check_cancelled(Engine& engine) {
    FlowConfig config = small_flow_config();
    config.max_positions = 1 << 20;
    const auto model = load(engine, config);
    const auto run = [&](int64_t N, const std::atomic<bool>* cancelled) {
        const std::vector<int32_t> ids(N);
        const std::vector<double> u = wide(random_normals(N * config.channels(), 4));
        FlowInverse out;
        return model->invert(engine, {.ids = ids.data(), .B = 1, .T = N}, u.data(), {}, out, cancelled).code;
    };
    std::atomic<bool> cancelled{true};
    CHECK(run(10, &cancelled) == Code::aborted);
    // Minutes of work: attention alone grows with the square.
    cancelled = false;
    std::thread owner([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        cancelled = true;
    });
    CHECK(run(100'000, &cancelled) == Code::aborted);
    owner.join();
    CHECK(run(10, nullptr) == Code::ok);
}

}  // namespace

TEST_CASE("flow: fixed positions are alike in one op and one by one") {
    for (const FlowConfig& config : single_flows()) {
        Engine two(*find_backend("cpu"), 2);
        check_fixed(two, {config});
    }
    for (const std::string& device : devices())
        for (const FlowConfig& config : single_flows({2})) {
            INFO(device);
            check_fixed(device_engine(device), {config, Precision::f32, 3, 5});
        }
}

TEST_CASE("flow: a sequential inverse can be cancelled on its way, and the engine goes on") {
    for (const int threads : {1, 3}) {
        Engine engine(*find_backend("cpu"), threads);
        check_cancelled(engine);
    }
    for (const std::string& device : devices()) {
        INFO(device);
        check_cancelled(device_engine(device));
    }
}
