// The only idea of asynchrony: where an op's work goes. On the CPU a team of threads, on a GPU a queue that runs behind.
#pragma once

#include <atomic>
#include <cstdint>

namespace noema {

struct Stream {
    void* handle = nullptr;  // the backend's own
    int threads = 1;         // CPU: workers that may run tasks at the same time; `worker` below is in [0, threads)
    /// CPU: runs task(argument, index, worker) for every index in [0, count), returns when all are done. Every worker begins
    /// with the index of its own number: `threads` tasks run side by side and may wait for each other.
    void (*dispatch)(void* handle, int64_t count, void (*task)(void* argument, int64_t index, int worker),
                     void* argument) = nullptr;
    /// Set by the owner to end a loop of ops early; long native loops look at it between steps.
    const std::atomic<bool>* cancelled = nullptr;

    bool is_cancelled() const { return cancelled && cancelled->load(std::memory_order_relaxed); }
};

/// Calls f(index, worker) for every index in [0, count). How work is cut into indices must depend on shapes only, never
/// on stream.threads: that is what makes results independent of the thread count.
template <class F>
inline void parallel_for(const Stream& stream, int64_t count, const F& f) {
    if (count <= 0) return;
    if (count == 1 || stream.threads == 1 || !stream.dispatch) {
        for (int64_t i = 0; i < count; ++i) f(i, 0);
        return;
    }
    stream.dispatch(
        stream.handle, count,
        [](void* argument, int64_t index, int worker) { (*static_cast<const F*>(argument))(index, worker); },
        const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace noema
