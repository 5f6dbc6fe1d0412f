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
    static std::shared_ptr<Runtime> create(Napi::Env env, const std::string& backend, int threads, size_t queue_limit);
    ~Runtime();

    /// A promise of the job. Refused at once (rejected) when the queue is full or the engine disposed.
    Napi::Value submit(Napi::Env env, Job job);

    /// Calls f on JavaScript's thread, soon; dropped when the environment is going away.
    void post(std::function<void(Napi::Env)> f);

    /// Cancels what runs and what waits; their promises reject with ERR_DISPOSED. Does not wait for the thread.
    void stop(Napi::Env env);

    bool stopped() const { return stopped_; }
    /// Null until the backend is open.
    const Engine* engine() const { return published_.load(); }
    const std::string& backend_name() const { return name_; }
    size_t waiting() const;
    int64_t finished() const { return finished_; }
    std::atomic<int64_t> weight_bytes{0};

 private:
    struct Pending;
    Runtime(const std::string& backend, int threads, size_t queue_limit)
        : name_(backend), threads_(threads), queue_limit_(queue_limit) {}
    void open();
    void start(Napi::Env env);
    void work();
    Status attempt(Pending& pending);
    static void settle(Napi::Env env, Pending& pending);
    void ask_to_stop();
    void join();
    static void on_exit(void* self);

    std::string name_;
    int threads_;
    Status opened_;
    std::unique_ptr<Engine> engine_;
    std::atomic<const Engine*> published_{nullptr};
    size_t queue_limit_;
    std::thread thread_;
    mutable std::mutex lock_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Pending>> queue_;
    std::shared_ptr<Pending> running_;
    bool stopping_ = false;
    bool stopped_ = false;   // of JavaScript's thread only
    int64_t in_flight_ = 0;  // of JavaScript's thread only
    std::atomic<int64_t> finished_{0};
    napi_threadsafe_function to_javascript_ = nullptr;
    napi_env env_ = nullptr;
};

}  // namespace noema::napi
