// Where the workers of one parallel_for meet: some 100 ns between two cores that share a cache, against a microsecond or more for a
// dispatch. For loops that hold a team from their first step to their last.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace noema::cpu {

/// Zero-initialised; may lie in workspace. What a worker wrote before it arrived, all see after.
class SpinBarrier {
 public:
    /// Larger teams would wait for each other longer than they save.
    static constexpr int kLargestTeam = 64;

    /// How often a worker has arrived. Between this and wait() it may do what needs nobody else.
    uint32_t arrive(int worker) {
        std::atomic<uint32_t>& own = arrivals_[worker].count;
        const uint32_t now = own.load(std::memory_order_relaxed) + 1;
        own.store(now, std::memory_order_release);
        return now;
    }
    /// Until all of the team have arrived as often. `meanwhile`, a few nanoseconds of it, is done again and again.
    template <class Meanwhile>
    void wait(uint32_t arrival, int team, const Meanwhile& meanwhile) {
        int spins = 0;
        for (int worker = 0; worker < team; ++worker)
            while (!has_come(worker, arrival)) {
                meanwhile();
                // Others may need this core to arrive: where threads are more than cores, spinning on takes longer than the work.
                if (++spins > kSpins)
                    std::this_thread::sleep_for(kNap);
                else if (spins % kPatience == 0)
                    std::this_thread::yield();
                else
                    relax();
            }
    }

 private:
    static constexpr int kSpins = 2000, kPatience = 32;
    /// Nobody is woken: to see who sleeps, whoever arrives would have to wait until all it has written and asked for is there, some
    /// 400 ns at every meeting.
    static constexpr std::chrono::microseconds kNap{20};

    /// Each on a line of its own: to arrive is to write what nobody else writes, and whoever waits gets it in one exchange.
    struct alignas(64) Arrivals {
        std::atomic<uint32_t> count{0};
    };

    // Nobody is more than one meeting ahead of anybody, so counts that start over are no matter.
    bool has_come(int worker, uint32_t arrival) const {
        return static_cast<int32_t>(arrivals_[worker].count.load(std::memory_order_acquire) - arrival) >= 0;
    }
    static void relax() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    Arrivals arrivals_[kLargestTeam];
};

}  // namespace noema::cpu
