// Where the workers of one parallel_for meet: some 100 ns between two cores that share a cache, against a microsecond or more for a
// dispatch. For loops that hold a team from their first step to their last.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace noema::cpu {

/// Zero-initialised; may lie in workspace. What a worker wrote before it arrived, all see after.
class SpinBarrier {
 public:
    /// The last of `team` opens it. Between the two calls a worker may do what needs nobody else.
    uint32_t arrive(int team) {
        const uint32_t now = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < team) return now;
        arrived_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1);  // also a fence between the number and the look at who sleeps
        phase_.notify_all();
        return now;
    }
    /// `meanwhile`, a few nanoseconds of it, is done again and again until the others are here.
    template <class Meanwhile>
    void wait(uint32_t arrival, const Meanwhile& meanwhile) {
        for (int i = 0; i < kSpins; ++i) {
            if (phase_.load(std::memory_order_acquire) != arrival) return;
            meanwhile();
            // Others may need this core to arrive: where threads are more than cores, spinning on takes longer than the work.
            if (i >= kPatience && i % kPatience == 0)
                std::this_thread::yield();
            else
                relax();
        }
        phase_.wait(arrival, std::memory_order_acquire);
    }

 private:
    static constexpr int kSpins = 2000, kPatience = 250;

    static void relax() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // Arrivals take their line from each other; those who wait read another.
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
};

}  // namespace noema::cpu
