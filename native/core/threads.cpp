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
    // A dispatch publishes a job by raising `generation`; a worker leaves it by lowering `active`.
    // Each has a cache line of its own: waiters read one while runners write another.
    alignas(64) std::atomic<uint32_t> generation{0};
    alignas(64) std::atomic<int> active{0};
    alignas(64) std::atomic<int64_t> next{0};
    alignas(64) std::atomic<bool> stopping{false};
    int64_t count = 0;
    void (*task)(void*, int64_t, int) = nullptr;
    void* argument = nullptr;

    void drain(int worker) {
        for (;;) {
            const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
            if (index >= count) return;
            task(argument, index, worker);
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
            if (active.fetch_sub(1, std::memory_order_acq_rel) == 1) active.notify_one();
        }
    }

    void await_workers() {
        for (int i = 0; i < kSpins; ++i) {
            if (active.load(std::memory_order_acquire) == 0) return;
            relax();
        }
        for (int now; (now = active.load(std::memory_order_acquire)) != 0;) active.wait(now, std::memory_order_acquire);
    }

    void run(int64_t n, void (*f)(void*, int64_t, int), void* a) {
        count = n;
        task = f;
        argument = a;
        next.store(0, std::memory_order_relaxed);
        active.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
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
}

ThreadTeam::~ThreadTeam() {
    state_->stopping.store(true, std::memory_order_release);
    state_->generation.fetch_add(1, std::memory_order_release);
    state_->generation.notify_all();
    for (auto& t : state_->workers) t.join();
    delete state_;
}

int ThreadTeam::threads() const {
    return static_cast<int>(state_->workers.size()) + 1;
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
