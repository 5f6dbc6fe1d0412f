#include "runtime.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <system_error>

namespace noema::napi {

struct Runtime::Pending {
    Job job;
    Napi::Promise::Deferred deferred;
    Status status;
    int64_t arena_bytes;             // the engine's after the work; -1: it has not run
    std::shared_ptr<Runtime> owner;  // a promise outlives the handles that it was asked of
};

namespace {

using Message = std::function<void(Napi::Env)>;

// Runs on JavaScript's thread. A null environment means that it is being torn down: only free.
void deliver(napi_env env, napi_value, void*, void* data) {
    const std::unique_ptr<Message> message(static_cast<Message*>(data));
    if (!env) return;
    const Napi::HandleScope scope(env);
    try {
        (*message)(Napi::Env(env));
    } catch (const Napi::Error&) {
        // An environment that cannot run JavaScript any more; there is nobody to tell.
    }
}

Status cancelled_early() {
    return Status::error(Code::aborted, "cancelled before it started");
}

}  // namespace

std::shared_ptr<Runtime> Runtime::create(Napi::Env env, const std::string& backend, int threads) {
    std::shared_ptr<Runtime> runtime(new Runtime(backend, threads));
    runtime->start(env);
    auto& runtimes = addon_data(env).runtimes;
    std::erase_if(runtimes, [](const auto& other) { return other.expired(); });
    runtimes.push_back(runtime);
    return runtime;
}

void Runtime::start(Napi::Env env) {
    env_ = env;
    const napi_status made = napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "noema"), 0,
                                                             1, nullptr, nullptr, nullptr, deliver, &to_javascript_);
    if (made != napi_ok) throw_error(env, Status::error(Code::internal, "no thread-safe function could be made"));
    napi_unref_threadsafe_function(env, to_javascript_);  // an idle engine does not keep the process alive
    napi_add_env_cleanup_hook(env, on_exit, this);
    try {
        thread_ = std::thread([this] { work(); });
    } catch (const std::system_error& error) {
        throw_error(env, Status::error(Code::out_of_memory, "the engine's thread could not start: %s", error.what()));
    }
}

Runtime::~Runtime() {
    if (env_) napi_remove_env_cleanup_hook(env_, on_exit, this);
    join();
    if (to_javascript_) napi_release_threadsafe_function(to_javascript_, napi_tsfn_release);
}

// The environment ends (process exit, worker terminated): end the running job, then let nobody call JavaScript again.
void Runtime::on_exit(void* self) {
    const std::shared_ptr<Runtime> runtime = static_cast<Runtime*>(self)->shared_from_this();
    runtime->join();
    runtime->queue_.clear();  // what waits owns the runtime
    runtime->env_ = nullptr;
    runtime->stopped_ = true;
    if (runtime->to_javascript_) napi_release_threadsafe_function(runtime->to_javascript_, napi_tsfn_abort);
    runtime->to_javascript_ = nullptr;
}

void Runtime::ask_to_stop() {
    {
        const std::lock_guard<std::mutex> hold(lock_);
        stopping_ = true;
        if (running_) running_->job.cancelled->store(true);
    }
    wake_.notify_all();
}

void Runtime::join() {
    ask_to_stop();
    if (thread_.joinable()) thread_.join();
}

size_t Runtime::waiting() const {
    const std::lock_guard<std::mutex> hold(lock_);
    return queue_.size();
}

bool Runtime::running() const {
    const std::lock_guard<std::mutex> hold(lock_);
    return running_ != nullptr;
}

Napi::Value Runtime::submit(Napi::Env env, Job job) {
    Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
    if (!job.cancelled) job.cancelled = std::make_shared<std::atomic<bool>>(false);
    auto pending = std::make_shared<Pending>(Pending{std::move(job), deferred, {}, -1, shared_from_this()});
    if (stopped_) {
        deferred.Reject(make_error(env, Status::error(Code::disposed, "the engine was disposed")).Value());
        return deferred.Promise();
    }
    {
        const std::lock_guard<std::mutex> hold(lock_);
        queue_.push_back(pending);
    }
    if (in_flight_++ == 0) napi_ref_threadsafe_function(env, to_javascript_);
    wake_.notify_one();
    return deferred.Promise();
}

void Runtime::post(std::function<void(Napi::Env)> f) {
    auto* message = new Message(std::move(f));
    if (!to_javascript_ || napi_call_threadsafe_function(to_javascript_, message, napi_tsfn_nonblocking) != napi_ok)
        delete message;
}

void Runtime::open() {
    const Backend* backend = nullptr;
    opened_ = open_backend(name_.c_str(), &backend);
    if (!opened_.ok()) return;
    engine_ = std::make_unique<Engine>(*backend, threads_);
    published_ = engine_.get();
}

void Runtime::work() {
    open();
    serve();
    // Here, so that its memory does not wait for the last handle to be collected.
    published_ = nullptr;
    engine_.reset();
}

void Runtime::serve() {
    for (;;) {
        std::shared_ptr<Pending> next;
        {
            std::unique_lock<std::mutex> hold(lock_);
            wake_.wait(hold, [&] { return stopping_ || !queue_.empty(); });
            if (stopping_) return;
            next = queue_.front();
            queue_.pop_front();
            running_ = next;
        }
        next->status = attempt(*next);
        if (engine_) next->arena_bytes = static_cast<int64_t>(engine_->arena_bytes());
        finished_.fetch_add(1);
        {
            const std::lock_guard<std::mutex> hold(lock_);
            running_.reset();
        }
        post([next](Napi::Env env) { settle(env, *next); });
    }
}

// Models allocate (traces, results, tensor lists); what does not fit is the caller's error, not the process's end.
Status Runtime::attempt(Pending& pending) {
    if (pending.job.cancelled->load()) return cancelled_early();
    if (!opened_.ok()) return opened_;
    try {
        return pending.job.work(*engine_, pending.job.cancelled.get());
    } catch (const std::bad_alloc&) {
        return Status::error(Code::out_of_memory, "the job's memory could not be had");
    } catch (const std::length_error&) {
        return Status::error(Code::out_of_memory, "the job needs more memory than can be addressed");
    } catch (const std::exception& error) {
        return Status::error(Code::internal, "%s", error.what());
    }
}

void Runtime::settle(Napi::Env env, Pending& pending) {
    // The engine's thread may be the last to let go of `pending`. References to JavaScript (a listener) and the runtime,
    // which joins that thread, must end here instead.
    const std::shared_ptr<Runtime> self = std::move(pending.owner);
    const Job job = std::move(pending.job);
    if (pending.arena_bytes >= 0) self->account(env, pending.arena_bytes);
    if (--self->in_flight_ == 0 && self->to_javascript_) napi_unref_threadsafe_function(env, self->to_javascript_);
    if (self->stopped_ && pending.status.code == Code::aborted)
        pending.status = Status::error(Code::disposed, "the engine was disposed while this was running");
    try {
        if (!pending.status.ok()) {
            const Napi::Error error = make_error(env, pending.status, job.details ? job.details(env) : Napi::Value());
            if (job.partial) error.Value().Set("partial", job.partial(env));
            pending.deferred.Reject(error.Value());
            return;
        }
        pending.deferred.Resolve(job.value ? job.value(env) : env.Undefined());
    } catch (const Napi::Error& error) {
        pending.deferred.Reject(error.Value());
    }
}

// What the engine holds counts as memory of the program's, so that V8 collects in time.
void Runtime::account(Napi::Env env, int64_t arena_bytes) {
    const int64_t now = stopped_ ? 0 : arena_bytes;
    Napi::MemoryManagement::AdjustExternalMemory(env, now - std::exchange(arena_bytes_, now));
}

void Runtime::withdraw_cancelled(Napi::Env env) {
    std::deque<std::shared_ptr<Pending>> left;
    {
        const std::lock_guard<std::mutex> hold(lock_);
        const auto stays = [](const auto& pending) { return !pending->job.cancelled->load(); };
        const auto gone = std::stable_partition(queue_.begin(), queue_.end(), stays);
        left.assign(gone, queue_.end());
        queue_.erase(gone, queue_.end());
    }
    for (const auto& pending : left) {
        pending->status = cancelled_early();
        settle(env, *pending);
    }
}

void Runtime::stop(Napi::Env env) {
    if (stopped_) return;
    stopped_ = true;
    account(env, 0);
    std::deque<std::shared_ptr<Pending>> left;
    {
        const std::lock_guard<std::mutex> hold(lock_);
        left.swap(queue_);
    }
    ask_to_stop();  // the thread ends by itself: waiting for it here would block the event loop
    for (const auto& pending : left) {
        pending->status = Status::error(Code::disposed, "the engine was disposed while this was waiting");
        settle(env, *pending);
    }
}

}  // namespace noema::napi
