#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define NOEMA_ASAN(...) __VA_ARGS__
#else
#define NOEMA_ASAN(...)
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace noema::cuda::emulation {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = size_t{512} << 10;  // redzones make frames several times as large
#else
constexpr size_t kStackBytes = size_t{128} << 10;
#endif

Fiber* entered = nullptr;  // the fiber that is about to run its body

}  // namespace

struct FiberEntry {
    static void run() {
        Fiber* self = entered;
        NOEMA_ASAN(__sanitizer_finish_switch_fiber(nullptr, &self->scheduler_bottom_, &self->scheduler_size_);)
        self->body_();
        for (;;) self->leave();  // a finished fiber is not entered again
    }
};

#if defined(__x86_64__)

// Saves what a function must preserve on the stack of the caller, and takes the same from the other.
asm(R"(
.text
.type noema_switch_stack, @function
noema_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size noema_switch_stack, .-noema_switch_stack
)");
extern "C" void noema_switch_stack(void** from, void* to) asm("noema_switch_stack");

namespace {

void* first_frame(void* stack) {
    auto* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack) + kStackBytes);
    *--top = 0;                                             // no caller
    *--top = reinterpret_cast<uint64_t>(&FiberEntry::run);  // where `ret` goes; the stack is then as after a call
    for (int i = 0; i < 6; ++i) *--top = 0;                 // rbp, rbx, r12 to r15
    return top;
}

void change(void** from, void* to) {
    noema_switch_stack(from, to);
}

}  // namespace

#else

namespace {

void* first_frame(void* stack) {
    auto* context = static_cast<ucontext_t*>(stack);  // kept at the low end
    getcontext(context);
    context->uc_stack.ss_sp = context + 1;
    context->uc_stack.ss_size = kStackBytes - sizeof *context;
    context->uc_link = nullptr;
    makecontext(context, &FiberEntry::run, 0);
    return context;
}

void change(void** from, void* to) {
    ucontext_t own;
    *from = &own;
    swapcontext(&own, static_cast<ucontext_t*>(to));
}

}  // namespace

#endif

Fiber::~Fiber() {
    if (stack_) munmap(stack_, kStackBytes);
}

bool Fiber::prepare(void (*body)()) {
    if (!stack_) {
        void* memory =
            mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return false;
        stack_ = memory;
    }
    NOEMA_ASAN(ASAN_UNPOISON_MEMORY_REGION(stack_, kStackBytes);)  // an abandoned kernel leaves redzones behind
    fake_stack_ = nullptr;
    body_ = body;
    pointer_ = first_frame(stack_);
    return true;
}

void Fiber::switch_to() {
    entered = this;
    NOEMA_ASAN(__sanitizer_start_switch_fiber(&scheduler_fake_stack_, stack_, kStackBytes);)
    change(&scheduler_, pointer_);
    NOEMA_ASAN(__sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);)
}

void Fiber::leave() {
    NOEMA_ASAN(__sanitizer_start_switch_fiber(&fake_stack_, scheduler_bottom_, scheduler_size_);)
    change(&pointer_, scheduler_);
    NOEMA_ASAN(__sanitizer_finish_switch_fiber(fake_stack_, &scheduler_bottom_, &scheduler_size_);)
}

}  // namespace noema::cuda::emulation
