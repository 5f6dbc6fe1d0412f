// Engine: a backend, its threads and its working memory. One job at a time; whoever owns it (N-API, a test) queues.
#pragma once

#include <memory>

#include "noema/backend.h"
#include "noema/threads.h"

namespace noema {

/// Memory of a backend, released with its owner.
class Buffer {
 public:
    Buffer() = default;
    Buffer(const Backend& backend, size_t bytes)
        : backend_(&backend), data_(backend.allocate(bytes ? bytes : 1)), bytes_(bytes) {}
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() {
        if (data_) backend_->release(data_);
    }

    /// Null when the memory could not be had.
    void* data() const { return data_; }
    size_t bytes() const { return data_ ? bytes_ : 0; }

 private:
    void swap(Buffer& other) {
        std::swap(backend_, other.backend_);
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
    }

    const Backend* backend_ = nullptr;
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

class Engine {
 public:
    Engine(const Backend& backend, int threads) : backend_(backend), team_(threads) {}

    const Backend& backend() const { return backend_; }
    int threads() const { return team_.threads(); }
    size_t arena_bytes() const { return block_.bytes(); }

    /// Runs `body(context)` twice: once measuring, to size the arena, then for real. Between the two nothing is allocated
    /// but the arena itself, and that only when it has to grow.
    template <class Body>
    Status execute(const Body& body, const std::atomic<bool>* cancelled = nullptr) {
        Arena measure;
        Context context{&backend_, team_.stream(cancelled), &measure};
        NOEMA_TRY(body(context));
        NOEMA_TRY(reserve(measure.high_water()));
        Arena arena(block_.data(), block_.bytes());
        context.arena = &arena;
        return body(context);
    }

 private:
    Status reserve(size_t bytes);

    const Backend& backend_;
    ThreadTeam team_;
    Buffer block_;
};

}  // namespace noema
