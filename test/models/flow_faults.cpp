// What a flow's calls refuse to give back, on every backend, and what they say of where it is.
#include <cmath>

#include "models/small_flow.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

constexpr int64_t kSequences = 2, kPrefix = 3, kPositions = 7;

/// A mixture that takes a text from its end, under one that takes it from its start.
FlowConfig opposed_flows() {
    FlowConfig config = small_flow_config(1, false, true);
    config.flows = {config.flows[3], config.flows[0]};
    return config;
}

struct Job {
    FlowConfig config = opposed_flows();
    Text text{config, kSequences, kPrefix + kPositions, kPrefix};
    std::vector<double> u = wide(random_normals(kSequences * kPositions * config.channels(), 5));

    /// One scalar of a position of the text.
    double& at(int64_t sequence, int64_t position) {
        return u[(sequence * kPositions + position - kPrefix) * config.channels() + 1];
    }
};

struct Ending {
    Status status;
    FlowInverse out;
};
Ending invert(Engine& engine, const FlowModel& model, const Job& job, const InverseRange& range = {}) {
    Ending e;
    e.status = model.invert(engine, job.text.batch, job.u.data(), range, e.out, nullptr);
    return e;
}

void check_fault(const std::optional<FlowFault>& fault, const FlowFault& expected) {
    REQUIRE(fault.has_value());
    CHECK(fault->flow == expected.flow);
    CHECK(fault->sequence == expected.sequence);
    CHECK(fault->first == expected.first);
    CHECK(fault->last == expected.last);
}

void each_backend(const std::function<void(Engine&)>& f) {
    Engine cpu(*find_backend("cpu"), 2), reference(*find_backend("reference"), 1);
    f(cpu);
    f(reference);
    for (const std::string& name : devices()) {
        INFO("device ", name);
        f(device_engine(name));
    }
}

InverseRange swept(const FlowConfig& config, InversePlan plan) {
    plan.method = InverseMethod::jacobi;
    return {.plans = std::vector<InversePlan>(config.flows.size(), plan)};
}

}  // namespace

TEST_CASE("flow: noise beyond what states hold is refused, and so is noise that leads to no token") {
    each_backend([](Engine& engine) {
        const Job plain;
        const auto model = load(engine, plain.config);
        for (const InverseRange& range : {InverseRange{}, swept(plain.config, {.modules = 2})}) {
            for (const double noise : {double{NAN}, -double{INFINITY}, 1e19, 1e38, -1e39}) {
                Job job;
                job.at(1, 5) = noise;
                const Ending found = invert(engine, *model, job, range);
                CHECK(found.status.code == Code::non_finite);
                check_fault(found.out.fault, {1, 1, 5, 5});
            }
            for (const double noise : {1e5, -1e8, 1e10}) {
                Job job;
                job.at(1, 5) = noise;
                const Ending found = invert(engine, *model, job, range);
                CHECK_MESSAGE(found.status.code == Code::non_finite, noise, ": ", found.status.text);
                check_fault(found.out.fault, {0, 1, 5, 5});
            }
            // Here double's own steps are 2: sweeps are found out by that, before the codebook is asked.
            Job job;
            job.at(1, 5) = -1e16;
            const Ending found = invert(engine, *model, job, range);
            CHECK((found.status.code == Code::non_finite || found.status.code == Code::not_converged));
            CHECK((found.out.fault && found.out.fault->sequence == 1));
            CHECK(invert(engine, *model, plain, range).status.ok());
        }
    });
}

TEST_CASE(
    "flow: what is put into a state is refused where it is too large, and not looked at where nothing is put in") {
    each_backend([](Engine& engine) {
        const Job job;
        const auto model = load(engine, job.config);
        std::vector<double> given(job.u.size());
        std::vector<uint8_t> fixed(kSequences * kPositions);
        fixed[3] = 1;
        given[5 * job.config.channels()] = NAN;
        const InverseRange range{.from = 1, .fixed = fixed.data(), .given = given.data()};
        CHECK(invert(engine, *model, job, range).status.ok());
        for (const double value : {1e200, 1e19, 1e10}) {
            given[3 * job.config.channels() + 2] = value;
            const Ending found = invert(engine, *model, job, range);
            CHECK(found.status.code == Code::non_finite);
            check_fault(found.out.fault, {0, 0, kPrefix + 3, kPrefix + 3});
        }
    });
}

TEST_CASE("flow: likelihoods and readings that are no numbers are refused") {
    each_backend([](Engine& engine) {
        Job job;
        const auto model = load(engine, job.config);
        const int64_t c = job.config.channels();
        FlowPass pass;
        job.text.noise[(kPositions + 4) * c] = 1e30f;
        Status status = model->encode(engine, job.text.batch, {.noise = job.text.noise.data()}, pass, nullptr);
        CHECK(status.code == Code::non_finite);
        check_fault(pass.fault, {-1, 1, kPrefix + 4, kPrefix + 4});
        job.at(0, 6) = 1e30;
        FlowPass above;
        status = model->encode(engine, job.text.batch, {.given = job.u.data(), .level = 1}, above, nullptr);
        CHECK(status.code == Code::non_finite);
        REQUIRE(above.fault.has_value());
        CHECK((above.fault->flow == 1 && above.fault->sequence == 0 && above.fault->first >= 6));
        FlowReading reading;
        CHECK(model->read(engine, 0, job.u.data(), kPositions, reading, nullptr).code == Code::non_finite);
        check_fault(reading.fault, {-1, 0, 6 - kPrefix, 6 - kPrefix});
        job.at(0, 6) = 1;
        CHECK(model->read(engine, 0, job.u.data(), kPositions, reading, nullptr).ok());
        CHECK(!reading.fault.has_value());
    });
}

TEST_CASE("flow: a table whose sigma is 0 or infinite is refused, its entry named") {
    Engine engine(*find_backend("cpu"), 1);
    const FlowConfig config = opposed_flows();
    for (const char* name : {"codebook.log_sigma", "flows.0.components.log_sigma"})
        for (const float log_sigma : {-1000.0f, -95.0f, 95.0f, 1000.0f, -20.0f}) {
            Weights w = flow_weights(config);
            for (size_t i = 0; i < w.sources.size(); ++i)
                if (w.sources[i].name == name) w.values[i][4] = log_sigma;
            std::unique_ptr<FlowModel> model;
            const Status status = FlowModel::load(engine, config, w.sources, Precision::f32, model);
            CHECK(status.ok() == (log_sigma == -20.0f));
            if (status.ok()) continue;
            CHECK(status.code == Code::non_finite);
            CHECK(std::string(status.text).find("tensor " + std::string(name) + ", entry 4: ") == 0);
        }
}

TEST_CASE("flow: sweeps that do not come to rest tell their positions as they stand in the text") {
    each_backend([](Engine& engine) {
        const Job job;
        const auto model = load(engine, job.config);
        InverseRange range = swept(job.config, {.modules = 2, .sweeps = 1, .tolerance = 1e-7f});
        Ending found = invert(engine, *model, job, range);
        CHECK(found.status.code == Code::not_converged);
        check_fault(found.out.fault, {1, found.out.fault->sequence, kPrefix, kPrefix + 2});
        CHECK(std::string(found.status.text).find("flow 1: positions 3 to 5 of") == 0);
        // The flow nearest the data begins with the text's end.
        range.plans[1] = {};
        found = invert(engine, *model, job, range);
        CHECK(found.status.code == Code::not_converged);
        check_fault(found.out.fault, {0, found.out.fault->sequence, kPrefix + 4, kPrefix + 6});
        CHECK(std::string(found.status.text).find("flow 0: positions 7 to 9 of") == 0);
    });
}

namespace {

/// An affine flow that says little of what its input is while that is 0, much of anything else.
Weights moody_flow(const FlowConfig& config) {
    Weights w = flow_weights(config);
    for (size_t i = 0; i < w.sources.size(); ++i) {
        const std::string& name = w.sources[i].name;
        if (name == "flows.0.start" || name == "flows.0.input.bias")
            std::fill(w.values[i].begin(), w.values[i].end(), 0.0f);
        if (name == "flows.0.head.bias") std::fill(w.values[i].begin(), w.values[i].end(), 0.02f);
    }
    return w;
}

}  // namespace

TEST_CASE("flow: sweeps that rest where they should not are found out by running forward what they found") {
    FlowConfig config = small_flow_config();
    config.flows = {config.flows[2]};
    const Text text(config, 1, kPositions);
    const std::vector<double> u(kPositions * config.channels());
    each_backend([&](Engine& engine) {
        std::unique_ptr<FlowModel> model;
        const Weights weights = moody_flow(config);
        REQUIRE(FlowModel::load(engine, config, weights.sources, Precision::f32, model).ok());
        // However loose the tolerance is: it says when to rest, not what may be found.
        for (const float tolerance : {0.03f, 1.0f}) {
            FlowInverse out;
            const Status status =
                model->invert(engine, text.batch, u.data(), swept(config, {.tolerance = tolerance}), out, nullptr);
            CHECK(status.code == Code::not_converged);
            CHECK(std::string(status.text).find("flow 0: what sweeps found for sequence 0 leads ") == 0);
            CHECK(std::string(status.text).find("expected at most 0.001") != std::string::npos);
            check_fault(out.fault, {0, 0, 0, kPositions - 1});
        }
        const FlowInverse found = test::invert(engine, *model, text.batch, u, swept(config, {}));
        CHECK(found.residuals[0][0] <= 1e-4f);
    });
}

TEST_CASE("flow: what is run forward again: sweeps always, the sequential inverse where it is asked for") {
    each_backend([](Engine& engine) {
        const Job job;
        const auto model = load(engine, job.config);
        InverseRange range = swept(job.config, {.modules = 3});
        range.plans[1] = {};
        FlowInverse found = test::invert(engine, *model, job.text.batch, job.u, range);
        CHECK((found.residuals[0].size() == kSequences && found.residuals[1].empty()));
        range.check = true;
        std::vector<uint8_t> fixed(kSequences * kPositions);
        fixed[4] = fixed[9] = 1;
        const std::vector<double> given(job.u.size(), 0.5);
        range.fixed = fixed.data(), range.given = given.data();
        found = test::invert(engine, *model, job.text.batch, job.u, range);
        for (const std::vector<float>& residuals : found.residuals) {
            REQUIRE(residuals.size() == kSequences);
            for (const float residual : residuals) CHECK((residual > 0 && residual <= 1e-4f));
        }
    });
}
