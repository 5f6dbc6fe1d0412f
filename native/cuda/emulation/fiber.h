// Fibers: stacks that hand the processor to each other. A switch costs some nanoseconds, which is what makes a block of 256
// threads with a barrier every few lines bearable.
#pragma once

#include <cstddef>

namespace noema::cuda::emulation {

class Fiber {
 public:
    Fiber() = default;
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    /// The next switch_to() enters `body` on a fresh stack; the stack's memory is used again. False: no memory.
    bool prepare(void (*body)());
    /// Leaves the scheduler for this fiber, until leave() comes back.
    void switch_to();
    /// From inside: back to the scheduler.
    void leave();

 private:
    friend struct FiberEntry;
    void* stack_ = nullptr;
    void* pointer_ = nullptr;    // where the fiber stopped
    void* scheduler_ = nullptr;  // where switch_to was called
    void (*body_)() = nullptr;
    // What address sanitizer wants to know of the two stacks.
    void* fake_stack_ = nullptr;
    void* scheduler_fake_stack_ = nullptr;
    const void* scheduler_bottom_ = nullptr;
    size_t scheduler_size_ = 0;
};

}  // namespace noema::cuda::emulation
