// Sweeps that a device repeats by itself: what they find, what they cost the host, and how they end.
#include <atomic>
#include <thread>

#include "models/small_flow.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

// A backend's functions have no argument that could say whose they are.
std::atomic<int> waits, downloads, recordings;
const Backend* counted_device = nullptr;

/// A device that counts how often the host waits for it, and what it records.
Backend counted(const Backend& device) {
    waits = downloads = recordings = 0;
    counted_device = &device;
    Backend b = device;
    b.synchronize = [](const Stream& stream) {
        ++waits;
        return counted_device->synchronize(stream);
    };
    b.download = [](void* host, const void* memory, size_t bytes, const Stream& stream) {
        ++downloads;
        return counted_device->download(host, memory, bytes, stream);
    };
    b.begin_recording = [](const Stream& stream) {
        ++recordings;
        return counted_device->begin_recording(stream);
    };
    return b;
}

constexpr int64_t T = 7;

/// Two of the kinds, enough for what is judged here: an emulated device takes its time.
FlowConfig two_flows() {
    FlowConfig config = small_flow_config();
    config.flows = {config.flows[0], config.flows[2]};
    return config;
}

InverseRange by_sweeps(const FlowConfig& config, int64_t modules, float tolerance = 1e-5f, int64_t sweeps = 0) {
    const InversePlan plan{
        .method = InverseMethod::jacobi, .modules = modules, .sweeps = sweeps, .tolerance = tolerance};
    return {.plans = std::vector<InversePlan>(config.flows.size(), plan)};
}

/// The inverses of two noises, one after the other: the second is a replay where the first was recorded.
std::vector<FlowInverse> invert_twice(Engine& engine, const FlowConfig& config, const InverseRange& range) {
    const auto model = load(engine, config);
    const Text text(config, 2, T);
    std::vector<FlowInverse> found;
    for (const uint32_t seed : {5, 6})
        found.push_back(
            invert(engine, *model, text.batch, wide(random_normals(2 * T * config.latent_size, seed)), range));
    return found;
}

void check_same(const std::vector<FlowInverse>& a, const std::vector<FlowInverse>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
        CHECK(a[i].state == b[i].state);
        CHECK(a[i].sweeps == b[i].sweeps);
        CHECK(a[i].tokens == b[i].tokens);
    }
}

}  // namespace

TEST_CASE("flow: a device's sweeps are the same recorded, on their own, and where the host decides") {
    const FlowConfig config = two_flows();
    std::vector<uint8_t> fixed(2 * T);
    for (size_t i = 0; i < fixed.size(); ++i) fixed[i] = i % 5 == 2;
    const std::vector<double> given = wide(random_normals(2 * T * config.latent_size, 9));
    for (const std::string& name : devices()) {
        INFO("device ", name);
        const Backend& device = *find_backend(name.c_str());
        REQUIRE((device.begin_repeat && device.end_repeat));
        Backend unrecorded = device, looked_at = device;
        unrecorded.begin_recording = nullptr;
        looked_at.begin_repeat = nullptr;
        Engine engine(device, 0), alone(unrecorded, 0), by_host(looked_at, 0), cpu(*find_backend("cpu"), 1);
        for (const int64_t modules : {1, 3}) {
            InverseRange range = by_sweeps(config, modules);
            if (modules == 3) range.fixed = fixed.data(), range.given = given.data();
            const std::vector<FlowInverse> found = invert_twice(engine, config, range);
            check_same(found, invert_twice(alone, config, range));
            check_same(found, invert_twice(by_host, config, range));
            InverseRange sequential = range;
            sequential.plans.clear();
            const std::vector<FlowInverse> one_by_one = invert_twice(engine, config, sequential),
                                           processor = invert_twice(cpu, config, range);
            for (size_t i = 0; i < found.size(); ++i) {
                CHECK(largest_difference(found[i].state, one_by_one[i].state) <= 5e-3);
                CHECK(largest_difference(found[i].state, processor[i].state) <= 5e-3);
            }
        }
    }
}

TEST_CASE("flow: the host waits once for all of a device's sweeps") {
    const FlowConfig config = two_flows();
    const Text text(config, 2, T);
    const std::vector<double> u = wide(random_normals(2 * T * config.latent_size, 5));
    for (const std::string& name : devices()) {
        INFO("device ", name);
        Backend device = counted(*find_backend(name.c_str()));
        for (const bool repeats : {true, false}) {
            if (!repeats) device.begin_repeat = nullptr;
            Engine engine(device, 0);
            const auto model = load(engine, config);
            for (int call = 0; call < 3; ++call) {
                waits = downloads = 0;
                const FlowInverse found = invert(engine, *model, text.batch, u, by_sweeps(config, 2));
                CHECK(waits == 1);
                int64_t rounds = 0;  // of the slower sequence, for each of the modules at least half
                for (const auto& sweeps : found.sweeps) rounds += std::max(sweeps[0], sweeps[1]);
                if (repeats)
                    CHECK(downloads == 0);
                else
                    CHECK((downloads > 0 && downloads < rounds));
            }
        }
    }
}

TEST_CASE("flow: sweeps that do not come to rest on a device are the processor's error, and the engine goes on") {
    const FlowConfig config = two_flows();
    const Text text(config, 2, T);
    const std::vector<double> u = wide(random_normals(2 * T * config.latent_size, 6));
    const auto run = [&](Engine& engine, const InverseRange& range) {
        FlowInverse out;
        return load(engine, config)->invert(engine, text.batch, u.data(), range, out, nullptr);
    };
    const auto beginning = [](const Status& status) {
        const std::string text = status.text;
        return text.substr(0, text.find(" by "));
    };
    Engine cpu(*find_backend("cpu"), 1);
    const Status expected = run(cpu, by_sweeps(config, 2, 1e-7f, 2));
    CHECK(beginning(expected).find("flow 1: positions 0 to 2 of sequence ") == 0);
    for (const std::string& name : devices()) {
        INFO("device ", name);
        Engine& engine = device_engine(name);
        const Status status = run(engine, by_sweeps(config, 2, 1e-7f, 2));
        CHECK(status.code == Code::not_converged);
        CHECK(beginning(status) == beginning(expected));
        CHECK(std::string(status.text).find("after 2 sweeps, tolerance 1e-07") != std::string::npos);
        CHECK(run(engine, by_sweeps(config, 2)).ok());
    }
}

TEST_CASE("flow: a device's sweeps can be cancelled between two of them, and the engine goes on") {
    FlowConfig config = small_flow_config();
    config.flows.erase(config.flows.begin(), config.flows.end() - 1);
    const int64_t N = 40;
    const Text text(config, 1, N);
    const std::vector<double> u = wide(random_normals(N * config.latent_size, 6));
    const InverseRange range = by_sweeps(config, 1, 0.0f);  // until nothing changes
    for (const std::string& name : devices()) {
        INFO("device ", name);
        const Backend device = counted(*find_backend(name.c_str()));
        Engine engine(device, 0);
        const auto model = load(engine, config);
        const int32_t whole = invert(engine, *model, text.batch, u, range).sweeps[0][0];
        REQUIRE(whole > 8);
        waits = 0;
        std::atomic<bool> cancelled{false};
        std::thread owner([&] {
            while (waits == 0) std::this_thread::yield();
            cancelled = true;
        });
        FlowInverse out;
        const Status status = model->invert(engine, text.batch, u.data(), range, out, &cancelled);
        owner.join();
        CHECK(status.code == Code::aborted);
        CHECK(out.sweeps[0][0] < whole);
        CHECK(invert(engine, *model, text.batch, u, range).sweeps[0][0] == whole);
    }
}

// A sequential inverse looks for the owner's cancelling between its launches; a recording of it could not.
TEST_CASE("flow: beside a sequential inverse a device's sweeps are no recording, and find the same") {
    const FlowConfig config = two_flows();
    for (const std::string& name : devices()) {
        INFO("device ", name);
        const Backend device = counted(*find_backend(name.c_str()));
        Backend looked_at = device;
        looked_at.begin_repeat = nullptr;
        Engine engine(device, 0), by_host(looked_at, 0);
        InverseRange range = by_sweeps(config, 2);
        invert_twice(engine, config, range);
        CHECK(recordings == 1);
        range.plans[1] = {};
        check_same(invert_twice(engine, config, range), invert_twice(by_host, config, range));
        CHECK(recordings == 1);
    }
}
