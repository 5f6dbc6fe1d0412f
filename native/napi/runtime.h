// Runtime: an Engine, its one thread and the queue of jobs. JavaScript's thread only submits and settles.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "addon.h"

namespace noema::napi {

/// Work for the engine's thread, then a value made on JavaScript's thread.
struct Job {
    std::function<Status(Engine&, const std::atomic<bool>*)> work;
    std::function<Napi::Value(Napi::Env)> value;
    std::shared_ptr<std::atomic<bool>> cancelled;
    /// What work that failed or was cancelled leaves behind: set on the error as `partial`.
    std::function<Napi::Value(Napi::Env)> partial = nullptr;
    /// What a program may want to know of a failure: the error's `details`, or an empty value.
    std::function<Napi::Value(Napi::Env)> details = nullptr;
};

class Runtime : public std::enable_shared_from_this<Runtime> {
 public:
    /// The backend is opened on the engine's thread: finding a GPU can take seconds. Jobs wait; all fail when it cannot be
    /// opened.
    static std::shared_ptr<Runtime> create(Napi::Env env, const std::string& backend, int threads);
    ~Runtime();

    /// A promise of the job; rejected at once when the engine is disposed. No job is refused for their number: how many requests may
    /// begin is decided where they begin (lib/engine.ts), for what has begun is not to fail half-way.
    Napi::Value submit(Napi::Env env, Job job);

    /// Settles the waiting jobs that have been cancelled, which would else wait for their turn to say so.
    void withdraw_cancelled(Napi::Env env);

    /// Calls f on JavaScript's thread, soon; dropped when the environment is going away.
    void post(std::function<void(Napi::Env)> f);

    /// Cancels what runs and what waits; their promises reject with ERR_DISPOSED. Does not wait for the thread.
    void stop(Napi::Env env);

    bool stopped() const { return stopped_; }
    /// Null until the backend is open, and once the engine is disposed.
    const Engine* engine() const { return stopped_ ? nullptr : published_.load(); }
    const std::string& backend_name() const { return name_; }
    size_t waiting() const;
    bool running() const;
    int64_t finished() const { return finished_; }
    std::atomic<int64_t> weight_bytes{0};
    /// Of working memory: as much as the largest job so far took.
    int64_t arena_bytes() const { return arena_bytes_; }

 private:
    struct Pending;
    Runtime(const std::string& backend, int threads) : name_(backend), threads_(threads) {}
    void open();
    void start(Napi::Env env);
    void work();
    void serve();
    Status attempt(Pending& pending);
    static void settle(Napi::Env env, Pending& pending);
    void account(Napi::Env env, int64_t arena_bytes);
    void ask_to_stop();
    void join();
    static void on_exit(void* self);

    std::string name_;
    int threads_;
    Status opened_;
    std::unique_ptr<Engine> engine_;
    std::atomic<const Engine*> published_{nullptr};
    std::thread thread_;
    mutable std::mutex lock_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Pending>> queue_;
    std::shared_ptr<Pending> running_;
    bool stopping_ = false;
    bool stopped_ = false;     // of JavaScript's thread only
    int64_t in_flight_ = 0;    // of JavaScript's thread only
    int64_t arena_bytes_ = 0;  // of JavaScript's thread only: what V8 has been told
    std::atomic<int64_t> finished_{0};
    napi_threadsafe_function to_javascript_ = nullptr;
    napi_env env_ = nullptr;
};

}  // namespace noema::napi
