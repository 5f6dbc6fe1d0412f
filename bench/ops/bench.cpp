#include "ops/bench.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "ops/ceilings.h"

namespace noema::bench {

namespace {

std::vector<std::function<std::vector<Case>()>>& makers() {
    static std::vector<std::function<std::vector<Case>()>> list;
    return list;
}

std::vector<std::function<std::vector<Workload>()>>& workload_makers() {
    static std::vector<std::function<std::vector<Workload>()>> list;
    return list;
}

// Long enough that the clock's own 50 ns vanish, short enough to fall between two disturbances.
constexpr double kSlice = 1e-3;

struct Runner {
    const Case& c;
    const test::Tensors& tensors;
    Context context;

    double seconds_per_call(int64_t calls) {
        const double start = seconds_now();
        for (int64_t i = 0; i < calls; ++i)
            if (!c.op.run(tensors, context).ok()) return NAN;
        return (seconds_now() - start) / static_cast<double>(calls);
    }
};

/// Empty, or why the case has no number.
std::string first_call(Runner& runner) {
    const Case& c = runner.c;
    Status status = c.prepare ? c.prepare(runner.tensors, runner.context) : Status{};
    if (status.ok()) status = c.op.run(runner.tensors, runner.context);
    if (!status.ok()) return status.text;
    const double error = c.error(runner.tensors);
    if (error <= c.tolerance) return "";
    return "wrong result: error " + std::to_string(error) + ", allowed " + std::to_string(c.tolerance);
}

void sample_ceilings(const Work& work, const Stream& stream, Figures& f) {
    if (work.flops > 0) f.flop_rate = std::max(f.flop_rate, flops_slice(stream, work.precision));
    if (work.bytes > 0) f.byte_rate = std::max(f.byte_rate, read_slice(stream, work.bytes));
    if (work.exps > 0) f.exp_rate = std::max(f.exp_rate, exps_slice(stream));
}

void compare(const Work& work, Figures& f) {
    const auto consider = [&](double amount, double rate, const char* name) {
        if (amount <= 0 || rate <= 0 || amount / rate < f.floor) return;
        f.floor = amount / rate;
        f.bound = name;
    };
    consider(work.flops, f.flop_rate, "flops");
    consider(work.bytes * work.passes, f.byte_rate, "bytes");
    consider(work.exps, f.exp_rate, "exps");
}

void take_slices(Runner& runner, double seconds, Figures& f) {
    const int64_t calls = std::max<int64_t>(1, static_cast<int64_t>(kSlice / runner.seconds_per_call(1)));
    std::vector<double> slices;
    const double start = seconds_now();
    while (slices.size() < 5 || seconds_now() - start < seconds) {
        // The ceilings' buffers drive the case's data out of the caches: one call goes uncounted.
        if (slices.size() % 2 == 0) {
            sample_ceilings(runner.c.work, runner.context.stream, f);
            runner.seconds_per_call(1);
        }
        slices.push_back(runner.seconds_per_call(calls));
        f.calls += calls;
    }
    std::sort(slices.begin(), slices.end());
    f.best = slices.front();
    f.median = slices[slices.size() / 2];
}

// --- on a device -----------------------------------------------------------------------------------------------------

/// Seconds per call of `calls` calls that were recorded together: what a step of many launches pays for each.
double replayed_seconds(Engine& engine, const Recipe& recipe, const Engine::Body& body, int64_t calls) {
    const double start = seconds_now();
    if (!engine.execute(recipe, body).ok()) return NAN;
    return (seconds_now() - start) / static_cast<double>(calls);
}

Engine::Body calls_of(const Case& c, const test::Tensors& tensors, int64_t calls) {
    return [&c, &tensors, calls](Context& context) {
        for (int64_t i = 0; i < calls; ++i) NOEMA_TRY(c.op.run(tensors, context));
        return Status{};
    };
}

/// Recordings of one call, and of many.
const Recipe kOneCall(1), kManyCalls(2);

void take_device_slices(const Case& c, const test::Tensors& tensors, Engine& engine, Figures& f, double seconds) {
    replayed_seconds(engine, kOneCall, calls_of(c, tensors, 1), 1);
    const double one = std::max(replayed_seconds(engine, kOneCall, calls_of(c, tensors, 1), 1), 1e-6);
    const auto calls = std::clamp<int64_t>(static_cast<int64_t>(kSlice / one), 1, 200);
    replayed_seconds(engine, kManyCalls, calls_of(c, tensors, calls), calls);
    std::vector<double> slices;
    const double start = seconds_now();
    while (slices.size() < 3 || seconds_now() - start < seconds) {
        slices.push_back(replayed_seconds(engine, kManyCalls, calls_of(c, tensors, calls), calls));
        f.calls += calls;
    }
    std::sort(slices.begin(), slices.end());
    f.best = slices.front();
    f.median = slices[slices.size() / 2];
}

Figures measure_on_device(const Case& c, const Settings& settings) {
    Figures f;
    f.isa = settings.device;
    f.threads = 0;
    const Backend* backend = nullptr;
    const Status opened = open_backend(settings.device.c_str(), &backend);
    f.failure = opened.text;
    if (!opened.ok()) return f;
    Engine engine(*backend, 0);
    test::Tensors tensors = test::make_tensors(c.op.fields, c.name, false, false);
    test::OnDevice moved(tensors, engine);
    const auto prepare = [&] {
        return c.prepare ? engine.execute([&](Context& context) { return c.prepare(tensors, context); }) : Status{};
    };
    const auto measured = [&]() -> Status {
        NOEMA_TRY(moved.status());
        NOEMA_TRY(prepare());
        NOEMA_TRY(engine.execute(calls_of(c, tensors, 1)));
        take_device_slices(c, tensors, engine, f, settings.seconds);
        // What was timed is what is judged, but from the start: what accumulates (+=) has done so many times.
        NOEMA_TRY(moved.send_again());
        NOEMA_TRY(prepare());
        NOEMA_TRY(engine.execute(kOneCall, calls_of(c, tensors, 1)));
        return moved.bring_back();
    };
    const Status status = measured();
    f.failure = status.text;
    if (!status.ok()) return f;
    const double error = c.error(tensors);
    if (!(error <= c.tolerance))
        f.failure = "wrong result: error " + std::to_string(error) + ", allowed " + std::to_string(c.tolerance);
    if (c.evaluations) f.evaluations = c.evaluations(tensors);
    return f;
}

std::shared_ptr<std::byte> arena_for(Runner& runner, Arena& arena) {
    Arena measuring;
    runner.context.arena = &measuring;
    const Status status = runner.c.op.run(runner.tensors, runner.context);
    (void)status;  // the first real call reports it
    const size_t bytes = measuring.high_water() + (size_t{1} << 20);
    auto block = memory_of(*runner.context.backend, bytes);
    arena = Arena(block.get(), bytes);
    runner.context.arena = &arena;
    return block;
}

}  // namespace

Registered::Registered(std::function<std::vector<Case>()> make) {
    makers().push_back(std::move(make));
}

std::vector<Case> all_cases() {
    std::vector<Case> cases;
    for (const auto& make : makers())
        for (Case& c : make()) cases.push_back(std::move(c));
    std::stable_sort(cases.begin(), cases.end(), [](const Case& a, const Case& b) {
        return a.name.substr(0, a.name.find('/')) < b.name.substr(0, b.name.find('/'));
    });
    return cases;
}

RegisteredWorkloads::RegisteredWorkloads(std::function<std::vector<Workload>()> make) {
    workload_makers().push_back(std::move(make));
}

std::vector<Workload> all_workloads() {
    std::vector<Workload> workloads;
    for (const auto& make : workload_makers())
        for (Workload& w : make()) workloads.push_back(std::move(w));
    return workloads;
}

double worst_sample(int64_t n, const std::function<Compared(int64_t)>& at) {
    constexpr int64_t kSamples = 200;
    const int64_t count = std::min(n, kSamples);
    double worst = 0, squares = 0;
    for (int64_t i = 0; i < count; ++i) {
        const Compared s = at(count > 1 ? i * (n - 1) / (count - 1) : 0);
        const double error = std::fabs(s.truth - s.measured);
        worst = std::max(worst, std::isfinite(error) ? error : INFINITY);
        squares += s.truth * s.truth;
    }
    return count ? worst / std::sqrt(squares / static_cast<double>(count) + 1e-300) : 0;
}

std::shared_ptr<std::byte> memory_of(const Backend& backend, size_t bytes) {
    return {static_cast<std::byte*>(backend.allocate(bytes)), [&backend](std::byte* p) { backend.release(p); }};
}

bool Peers::read(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    while (std::getline(file, line)) {
        const size_t tab = line.find('\t');
        if (tab != std::string::npos) values_.emplace_back(line.substr(0, tab), std::atof(line.c_str() + tab + 1));
    }
    return file.eof();
}

double Peers::find(const std::string& name) const {
    for (const auto& [known, value] : values_)
        if (known == name) return value;
    return 0;
}

void Peers::compare(const std::string& name, const Work& work, Figures& f) const {
    f.peer = find(name);
    if (work.flops > 0) f.flop_rate = find(work.precision == Precision::bf16 ? "@flops bf16" : "@flops f32");
    if (work.bytes > 0) f.byte_rate = find("@bytes");
    bench::compare(work, f);
}

Figures measure(const Case& c, const Settings& settings) {
    if (!settings.device.empty()) return measure_on_device(c, settings);
    Figures f;
    const Backend* backend = find_backend("cpu");
    const Status forced = backend->force_isa(settings.isa.empty() ? nullptr : settings.isa.c_str());
    f.isa = backend->current_isa();
    f.threads = settings.threads;
    f.failure = forced.text;
    if (!forced.ok()) return f;
    ThreadTeam team(settings.threads);
    const test::Tensors tensors = test::make_tensors(c.op.fields, c.name, false, false);
    Arena arena;
    Runner runner{c, tensors, {backend, team.stream(), nullptr}};
    const auto block = arena_for(runner, arena);
    f.failure = first_call(runner);
    if (!f.failure.empty()) return f;
    take_slices(runner, settings.seconds, f);
    compare(c.work, f);
    if (c.evaluations) f.evaluations = c.evaluations(tensors);
    return f;
}

Figures measure(const Workload& w, const Settings& settings) {
    Figures f;
    const Backend* backend = nullptr;
    const Status opened = open_backend(settings.device.empty() ? "cpu" : settings.device.c_str(), &backend);
    f.failure = opened.text;
    if (!opened.ok()) return f;
    Engine engine(*backend, settings.threads);
    f.isa = backend->current_isa ? backend->current_isa() : settings.device;
    f.threads = settings.threads;
    Status status = w.prepare(engine);
    for (int i = 0; i < 2 && status.ok(); ++i) status = w.step(engine);  // the first one records
    // A device's engine has no threads, nor is its work bound by the processor.
    std::unique_ptr<ThreadTeam> team;
    if (settings.device.empty()) team = std::make_unique<ThreadTeam>(settings.threads);
    std::vector<double> times;
    const double start = seconds_now();
    while (status.ok() && (times.size() < 3 || seconds_now() - start < settings.seconds)) {
        const double before = seconds_now();
        status = w.step(engine);
        times.push_back(seconds_now() - before);
        if (team) sample_ceilings(w.work, team->stream(), f);
    }
    f.calls = static_cast<int64_t>(times.size());
    f.failure = status.text;
    if (status.ok()) {
        std::sort(times.begin(), times.end());
        f.best = times.front();
        f.median = times[times.size() / 2];
        if (team) compare(w.work, f);
        const double error = w.error();
        if (!(error <= w.tolerance)) f.failure = "wrong result: error " + std::to_string(error);
    }
    w.release();
    return f;
}

}  // namespace noema::bench
