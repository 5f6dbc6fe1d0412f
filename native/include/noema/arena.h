// One block of memory, used like a stack. Sized before the first step by a measuring run, never grown after.
#pragma once

#include <cstddef>
#include <cstdint>

#include "noema/tensor.h"

namespace noema {

/// A slice that an op may scribble on for the length of one call. 64-byte aligned.
struct Workspace {
    std::byte* data = nullptr;
    size_t size = 0;

    /// Cuts off room for n values of T, each cut 64-byte aligned. The op's workspace() function must have counted it.
    template <class T>
    T* take(int64_t n) {
        const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
        T* out = reinterpret_cast<T*>(data);
        data += bytes;
        size -= bytes;
        return out;
    }
};

/// What Workspace::take(n) of T consumes: op workspace() functions add these up.
template <class T>
constexpr size_t workspace_bytes(int64_t n) {
    return (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
}

/// A measuring arena (base null) hands out null pointers and only counts; front doors then skip the work. So one code
/// path both sizes a run and executes it.
class Arena {
 public:
    explicit Arena(Device device = Device::cpu) : device_(device) {}
    Arena(void* base, size_t capacity, Device device = Device::cpu)
        : base_(static_cast<std::byte*>(base)), capacity_(capacity), device_(device) {}

    bool measuring() const { return base_ == nullptr; }
    size_t high_water() const { return high_water_; }
    size_t capacity() const { return capacity_; }
    bool exhausted() const { return exhausted_; }

    size_t mark() const { return used_; }
    void rewind(size_t mark) { used_ = mark; }

    /// 64-byte aligned; null when measuring or when the block is too small (then exhausted() stays true).
    void* take(size_t bytes) {
        const size_t rounded = (bytes + 63) / 64 * 64;
        const size_t start = used_;
        used_ += rounded;
        if (used_ > high_water_) high_water_ = used_;
        if (measuring()) return nullptr;
        if (used_ > capacity_) {
            exhausted_ = true;
            return nullptr;
        }
        return base_ + start;
    }
    template <class... Shape>
    View tensor(DType dtype, Shape... shape) {
        View v = view(nullptr, dtype, static_cast<int64_t>(shape)...);
        v.data = take(v.bytes());
        v.device = device_;
        return v;
    }

 private:
    std::byte* base_ = nullptr;
    size_t capacity_ = 0;
    Device device_ = Device::cpu;
    size_t used_ = 0;
    size_t high_water_ = 0;
    bool exhausted_ = false;
};

/// Gives back, at the end of a scope, what the scope took.
class ArenaScope {
 public:
    explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
    ~ArenaScope() { arena_.rewind(mark_); }
    ArenaScope(const ArenaScope&) = delete;
    ArenaScope& operator=(const ArenaScope&) = delete;

 private:
    Arena& arena_;
    size_t mark_;
};

}  // namespace noema
