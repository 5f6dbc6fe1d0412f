// Engine: a backend, its stream and its working memory. One job at a time; whoever owns it (N-API, a test) queues.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

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

/// Everything by which one run's work may differ from another's, but for the values of host arrays and of tensors: shapes, options,
/// whose weights. Runs of equal recipes do the same work, so a device records the first and replays the others.
class Recipe {
 public:
    template <class... T>
    explicit Recipe(T... values) {
        (add(values), ...);
    }
    template <class T>
    void add(T value) {
        static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T> || std::is_pointer_v<T>,
                      "one plain value at a time");
        key_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    const std::string& key() const { return key_; }

 private:
    std::string key_;
};

/// A number that no other call in this process gets: names weights in recipes, for their addresses may come back.
uint64_t next_identity();

class Engine {
 public:
    using Body = std::function<Status(Context&)>;

    Engine(const Backend& backend, int threads);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    const Backend& backend() const { return backend_; }
    /// CPU: workers. On other devices 0.
    int threads() const { return team_ ? team_->threads() : 0; }
    size_t arena_bytes() const { return block_.bytes(); }

    /// Runs `body(context)` twice: once measuring, to size the arena, then for real. Between the two nothing is allocated
    /// but the arena itself, and that only when it has to grow. What the body fetched is there when this returns.
    Status execute(const Body& body, const std::atomic<bool>* cancelled = nullptr);

    /// The same for work that comes again and again. On a device with recordings the body's ops run only the first
    /// time; later its uploads and fetches alone, and the recording. The body may touch host memory in no other way.
    Status execute(const Recipe& recipe, const Body& body, const std::atomic<bool>* cancelled = nullptr);

    /// What it means that `bytes` bytes of `what` could not be had: out_of_memory, or that the device is lost.
    Status no_memory(size_t bytes, const char* what) const;

    /// Copies outside of a body, done when they return.
    Status upload(void* device, const void* host, size_t bytes);
    Status download(void* host, const void* device, size_t bytes);
    Status clear(void* device, size_t bytes);

 private:
    class Staging;
    struct Recorded {
        std::string key;
        Recording* recording;
    };
    /// A run on a device: its context, and the way from measuring to the results.
    Context context_for(const std::atomic<bool>* cancelled);
    Status prepare(const Body& body, Context& context);
    Status run(const Body& body, Context& context);
    Status record(const Body& body, Context& context, Recording** out);
    Status reserve(size_t bytes);
    Status finish(const Status& ran, const Context& context);
    Recording* find(const std::string& key);
    void keep(const std::string& key, Recording* recording);
    void forget_recordings();

    const Backend& backend_;
    std::unique_ptr<ThreadTeam> team_;
    Stream stream_;
    Status opened_;
    Buffer block_;
    std::unique_ptr<Staging> staging_;
    std::vector<Recorded> recordings_;  // most recently used last
};

}  // namespace noema
