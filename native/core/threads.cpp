#include "noema/threads.h"

#include <sched.h>

#include <system_error>
#include <thread>
#include <vector>

namespace noema {

namespace {

// Long enough to catch the next op of a running step (tens of microseconds), short enough to be polite to a neighbour.
constexpr int kSpins = 4000;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadTeam::State {
    std::vector<std::thread> workers;
    // A dispatch publishes a job by raising `generation`; a worker leaves it by raising `finished`, to `goal` if it is the
    // last. A line of the cache that another core wrote takes some 40 ns to come, and small products have 500. So the job
    // lies in the line that announces it, and the other lines are written only by those who leave and who want more.
    alignas(64) std::atomic<uint32_t> generation{0};
    std::atomic<bool> stopping{false};
    int team = 1;
    uint32_t goal = 0;
    int64_t count = 0;
    void (*task)(void*, int64_t, int) = nullptr;
    void* argument = nullptr;
    alignas(64) std::atomic<uint32_t> finished{0};
    alignas(64) std::atomic<int64_t> next{0};

    // Everybody's first task is the one of his own number: nobody waits for a counter, and in a loop of equal calls each
    // core finds what it read the last time in its own caches.
    void drain(int worker) {
        for (int64_t index = worker; index < count;) {
            task(argument, index, worker);
            if (count <= team) return;
            index = next.fetch_add(1, std::memory_order_relaxed);
        }
    }

    uint32_t await_job(uint32_t seen) {
        for (int i = 0; i < kSpins; ++i) {
            const uint32_t now = generation.load(std::memory_order_acquire);
            if (now != seen) return now;
            relax();
        }
        generation.wait(seen, std::memory_order_acquire);
        return generation.load(std::memory_order_acquire);
    }

    void work(int worker) {
        uint32_t seen = 0;
        for (;;) {
            seen = await_job(seen);
            if (stopping.load(std::memory_order_acquire)) return;
            drain(worker);
            const uint32_t last = goal;  // behind the next line it may be the next job's
            if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == last) finished.notify_one();
        }
    }

    void await_workers() {
        for (int i = 0; i < kSpins; ++i) {
            if (finished.load(std::memory_order_acquire) == goal) return;
            relax();
        }
        for (uint32_t now; (now = finished.load(std::memory_order_acquire)) != goal;)
            finished.wait(now, std::memory_order_acquire);
    }

    void run(int64_t n, void (*f)(void*, int64_t, int), void* a) {
        if (n > team) next.store(team, std::memory_order_relaxed);
        goal += static_cast<uint32_t>(team - 1);
        count = n;
        task = f;
        argument = a;
        generation.fetch_add(1, std::memory_order_release);
        generation.notify_all();
        drain(0);
        await_workers();
    }
};

int ThreadTeam::available_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    const unsigned n = std::thread::hardware_concurrency();
    return n ? static_cast<int>(n) : 1;
}

ThreadTeam::ThreadTeam(int threads) : state_(new State) {
    const int n = threads > 0 ? threads : available_cores();
    state_->workers.reserve(n - 1);
    try {
        for (int w = 1; w < n; ++w) state_->workers.emplace_back([s = state_, w] { s->work(w); });
    } catch (const std::system_error&) {
        // The system refuses more threads (a container's limit): a smaller team computes the same results.
    }
    state_->team = static_cast<int>(state_->workers.size()) + 1;
}

ThreadTeam::~ThreadTeam() {
    state_->stopping.store(true, std::memory_order_release);
    state_->generation.fetch_add(1, std::memory_order_release);
    state_->generation.notify_all();
    for (auto& t : state_->workers) t.join();
    delete state_;
}

int ThreadTeam::threads() const {
    return state_->team;
}

Stream ThreadTeam::stream(const std::atomic<bool>* cancelled) {
    Stream s;
    s.handle = state_;
    s.threads = threads();
    s.cancelled = cancelled;
    s.dispatch = [](void* handle, int64_t count, void (*task)(void*, int64_t, int), void* argument) {
        static_cast<State*>(handle)->run(count, task, argument);
    };
    return s;
}

}  // namespace noema
