#include "ops/bench.h"

#include <algorithm>
#include <cmath>

#include "ops/ceilings.h"

namespace noema::bench {

namespace {

std::vector<std::function<std::vector<Case>()>>& makers() {
    static std::vector<std::function<std::vector<Case>()>> list;
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

void sample_ceilings(const Case& c, const Stream& stream, Figures& f) {
    if (c.work.flops > 0) f.flop_rate = std::max(f.flop_rate, flops_slice(stream, c.work.precision));
    if (c.work.bytes > 0) f.byte_rate = std::max(f.byte_rate, read_slice(stream, c.work.bytes));
    if (c.work.exps > 0) f.exp_rate = std::max(f.exp_rate, exps_slice(stream));
}

void compare(const Work& work, Figures& f) {
    const auto consider = [&](double amount, double rate, const char* name) {
        if (amount <= 0 || amount / rate < f.floor) return;
        f.floor = amount / rate;
        f.bound = name;
    };
    consider(work.flops, f.flop_rate, "flops");
    consider(work.bytes, f.byte_rate, "bytes");
    consider(work.exps, f.exp_rate, "exps");
}

void take_slices(Runner& runner, double seconds, Figures& f) {
    const int64_t calls = std::max<int64_t>(1, static_cast<int64_t>(kSlice / runner.seconds_per_call(1)));
    std::vector<double> slices;
    const double start = seconds_now();
    while (slices.size() < 5 || seconds_now() - start < seconds) {
        // The ceilings' buffers drive the case's data out of the caches: one call goes uncounted.
        if (slices.size() % 2 == 0) {
            sample_ceilings(runner.c, runner.context.stream, f);
            runner.seconds_per_call(1);
        }
        slices.push_back(runner.seconds_per_call(calls));
        f.calls += calls;
    }
    std::sort(slices.begin(), slices.end());
    f.best = slices.front();
    f.median = slices[slices.size() / 2];
}

std::shared_ptr<std::byte> arena_for(Runner& runner, Arena& arena) {
    Arena measuring;
    runner.context.arena = &measuring;
    const Status status = runner.c.op.run(runner.tensors, runner.context);
    (void)status;  // the first real call reports it
    const size_t bytes = measuring.high_water() + (size_t{1} << 20);
    auto block = aligned_memory(bytes);
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

std::shared_ptr<std::byte> aligned_memory(size_t bytes) {
    const Backend* backend = find_backend("cpu");
    return {static_cast<std::byte*>(backend->allocate(bytes)), [backend](std::byte* p) { backend->release(p); }};
}

Figures measure(const Case& c, const Settings& settings) {
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
    return f;
}

}  // namespace noema::bench
