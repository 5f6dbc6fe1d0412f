#include "native/harness.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "doctest/doctest.h"

namespace noema::test {

namespace {

double epsilon_of(DType t) {
    return t == DType::bf16 ? 0x1p-8 : t == DType::f64 ? 0x1p-52 : 0x1p-23;
}

double worst_error(const std::vector<double>& truth, const std::vector<double>& measured) {
    double worst = 0;
    for (size_t i = 0; i < truth.size(); ++i) {
        if (truth[i] == measured[i] || (std::isnan(truth[i]) && std::isnan(measured[i]))) continue;
        const double error = std::fabs(truth[i] - measured[i]);
        worst = std::max(worst, std::isfinite(error) ? error : INFINITY);
    }
    return worst;
}

double largest(const std::vector<double>& values) {
    double most = 0;
    for (double v : values)
        if (std::isfinite(v)) most = std::max(most, std::fabs(v));
    return most;
}

/// Empty when `measured` obeys the two-error rule.
std::string verdict(const OpCase& op, const Tensors& truth, const Tensors& naive, const Tensors& measured) {
    if (op.judge) return op.judge(truth, measured);
    for (const Field& f : op.fields) {
        if (f.role == Role::input) continue;
        const std::vector<double> t = truth.values(f.name);
        const double error = worst_error(t, measured.values(f.name));
        double allowed = 0;
        if (is_float(f.dtype))
            allowed = 2 * worst_error(t, naive.values(f.name)) + op.roundings * epsilon_of(f.dtype) * largest(t) +
                      op.allowance;
        if (!(error <= allowed))
            return f.name + ": error " + std::to_string(error) + " (" + std::to_string(error / (largest(t) + 1e-300)) +
                   " of the largest value), allowed " + std::to_string(allowed);
    }
    return "";
}

bool same_bits(const OpCase& op, const Tensors& a, const Tensors& b) {
    for (const Field& f : op.fields) {
        if (f.role == Role::input) continue;
        const std::vector<double> x = a.values(f.name), y = b.values(f.name);
        for (size_t i = 0; i < x.size(); ++i)
            if (std::memcmp(&x[i], &y[i], sizeof(double)) != 0) return false;
    }
    return true;
}

void check_on_cpu(const OpCase& op, const Tensors& truth, const Tensors& naive) {
    static ThreadTeam one(1), three(3);
    for (const bool padded : {false, true}) {
        const Tensors single = make_tensors(op.fields, op.title, false, padded);
        const Tensors triple = make_tensors(op.fields, op.title, false, padded);
        const Status status = run_on(op, single, "cpu", one);
        REQUIRE_MESSAGE(status.ok(), status.text);
        CHECK_MESSAGE(broken_fences(single).empty(), broken_fences(single), " (padded rows: ", padded, ")");
        const std::string complaint = verdict(op, truth, naive, single);
        CHECK_MESSAGE(complaint.empty(), complaint, " (padded rows: ", padded, ")");
        REQUIRE(run_on(op, triple, "cpu", three).ok());
        CHECK_MESSAGE(same_bits(op, single, triple), "the result depends on the number of threads");
    }
}

/// Twice the same bits: a device may not let the order of its threads decide.
void check_on_device(const OpCase& op, const Tensors& truth, const Tensors& naive, Engine& engine) {
    for (const bool padded : {false, true}) {
        Tensors first = make_tensors(op.fields, op.title, false, padded);
        const Status status = run_on_device(op, first, engine);
        if (status.code == Code::unsupported) return;  // ops.def says so; test/architecture.test.ts counts
        REQUIRE_MESSAGE(status.ok(), status.text);
        CHECK_MESSAGE(broken_fences(first).empty(), broken_fences(first), " (padded rows: ", padded, ")");
        const std::string complaint = verdict(op, truth, naive, first);
        CHECK_MESSAGE(complaint.empty(), complaint, " (padded rows: ", padded, ")");
        if (padded) return;
        Tensors second = make_tensors(op.fields, op.title, false, false);
        REQUIRE(run_on_device(op, second, engine).ok());
        CHECK_MESSAGE(same_bits(op, first, second), "two runs differ");
    }
}

}  // namespace

const std::vector<std::string>& devices() {
    static const std::vector<std::string> usable = [] {
        std::vector<std::string> names;
        const char* chosen = std::getenv("NOEMA_TEST_DEVICES");
        for (const char* name : {"cuda-emulated", "cuda"})
            if ((!chosen ||
                 (std::string(",") + chosen + ",").find(std::string(",") + name + ",") != std::string::npos) &&
                find_backend(name))
                names.push_back(name);
        return names;
    }();
    return usable;
}

Engine& device_engine(const std::string& name) {
    static std::map<std::string, std::unique_ptr<Engine>> engines;
    std::unique_ptr<Engine>& engine = engines[name];
    if (!engine) engine = std::make_unique<Engine>(*find_backend(name.c_str()), 0);
    return *engine;
}

namespace {

int64_t elements(const OpCase& op) {
    int64_t sum = 0;
    for (const Field& f : op.fields) {
        int64_t n = 1;
        for (const int64_t size : f.shape) n *= size;
        sum += n;
    }
    return sum;
}

int64_t largest_case() {
    const char* text = std::getenv("NOEMA_TEST_LARGEST");
    return text ? std::strtoll(text, nullptr, 10) : INT64_MAX;
}

}  // namespace

void check(const OpCase& op) {
    INFO("case ", op.title, ", NOEMA_SEED=", seed());
    if (elements(op) > largest_case()) return;
    static ThreadTeam one(1);
    const Tensors truth = make_tensors(op.fields, op.title, true, false);
    const Tensors naive = make_tensors(op.fields, op.title, false, false);
    const Status status = run_on(op, truth, "reference", one);
    REQUIRE_MESSAGE(status.ok(), status.text);
    CHECK_MESSAGE(broken_fences(truth).empty(), "reference: ", broken_fences(truth));
    REQUIRE(run_on(op, naive, "naive", one).ok());
    EachIsa isas;
    for (const std::string& isa : isas.names) {
        if (std::getenv("NOEMA_TEST_DEVICES")) break;
        EachIsa::use(isa);
        INFO("instruction set ", isa);
        check_on_cpu(op, truth, naive);
    }
    for (const std::string& device : devices()) {
        INFO("device ", device);
        check_on_device(op, truth, naive, device_engine(device));
    }
}

void check_refused(const OpCase& op, Code code, const std::string& mentions) {
    INFO("case ", op.title);
    ThreadTeam one(1);
    const Tensors tensors = make_tensors(op.fields, op.title, false, false);
    const Status status = run_on(op, tensors, "cpu", one);
    CHECK(status.code == code);
    CHECK_MESSAGE(std::string(status.text).find(mentions) != std::string::npos, "said: ", status.text);
}

namespace {

/// Copies forward's values into backward's fields of the same name.
std::vector<Field> with_forward_values(std::vector<Field> fields, const Tensors& forward) {
    for (Field& f : fields)
        if (f.role == Role::input && forward[f.name]) f.fill.values = forward.values(f.name);
    return fields;
}

double weighted_sum(const GradientCase& g, const Tensors& forward, const Tensors& backward) {
    double sum = 0;
    for (const auto& [out, d_out] : g.upstream) {
        const std::vector<double> y = forward.values(out), d_y = backward.values(d_out);
        for (size_t i = 0; i < y.size(); ++i) sum += d_y[i] * y[i];
    }
    return sum;
}

double central_difference(const GradientCase& g, const Tensors& backward, const std::string& name, size_t index) {
    ThreadTeam one(1);
    double sums[2];
    for (const int side : {0, 1}) {
        OpCase moved = g.forward;
        const Tensors original = make_tensors(moved.fields, moved.title, true, false);
        for (Field& f : moved.fields)
            if (f.name == name) {
                f.fill.values = original.values(name);
                f.fill.values[index] += side ? g.step : -g.step;
                f.dtype = DType::f64;
            }
        const Tensors t = make_tensors(moved.fields, moved.title, true, false);
        REQUIRE(run_on(moved, t, "reference", one).ok());
        sums[side] = weighted_sum(g, t, backward);
    }
    return (sums[1] - sums[0]) / (2 * g.step);
}

}  // namespace

void check_gradient(const GradientCase& g) {
    INFO("gradient case ", g.forward.title, ", NOEMA_SEED=", seed());
    ThreadTeam one(1);
    const Tensors forward = make_tensors(g.forward.fields, g.forward.title, true, false);
    const Status ran = run_on(g.forward, forward, "reference", one);
    REQUIRE_MESSAGE(ran.ok(), ran.text);
    OpCase filled = g.backward;
    filled.fields = with_forward_values(filled.fields, forward);
    // Forward's saved values are double here; keep them so.
    for (Field& f : filled.fields)
        if (is_float(f.dtype)) f.dtype = DType::f64;
    const Tensors backward = make_tensors(filled.fields, filled.title, true, false);
    const Status back = run_on(filled, backward, "reference", one);
    REQUIRE_MESSAGE(back.ok(), back.text);
    for (const auto& [name, d_name] : g.gradients) {
        const std::vector<double> gradient = backward.values(d_name);
        if (gradient.empty()) continue;
        for (int probe = 0; probe < 12; ++probe) {
            const size_t i =
                static_cast<size_t>(choose(g.forward.title + name + std::to_string(probe), gradient.size()));
            const double expected = central_difference(g, backward, name, i);
            CHECK_MESSAGE(std::fabs(gradient[i] - expected) <= g.tolerance * (largest(gradient) + 1e-3), d_name, "[", i,
                          "] is ", gradient[i], ", finite difference ", expected);
        }
    }
}

EachIsa::EachIsa() {
    for (const char* const* name = find_backend("cpu")->isa_list(); *name; ++name) names.push_back(*name);
}
EachIsa::~EachIsa() {
    find_backend("cpu")->force_isa(nullptr);
}

void EachIsa::use(const std::string& name) {
    const Status status = find_backend("cpu")->force_isa(name.c_str());
    REQUIRE_MESSAGE(status.ok(), status.text);
}

}  // namespace noema::test
