// Progress<T>: tells JavaScript how far a job has come, without queueing more than one message: what happens before it is delivered is
// put together.
#pragma once

#include <mutex>
#include <utility>

#include "runtime.h"

namespace noema::napi {

template <class T>
class Progress : public std::enable_shared_from_this<Progress<T>> {
 public:
    using Tell = std::function<void(Napi::Env, const Napi::FunctionReference&, const T&)>;

    Progress(std::shared_ptr<Runtime> runtime, Napi::Function listener, Tell tell)
        : runtime_(std::move(runtime)), listener_(Napi::Persistent(listener)), tell_(std::move(tell)) {}

    /// From the listener of this name, or null where there is none.
    static std::shared_ptr<Progress> read(const Arguments& a, const char* name, std::shared_ptr<Runtime> runtime,
                                          Tell tell) {
        if (!a.has(name)) return nullptr;
        if (!a.value(name).IsFunction()) a.refuse(name, "a function");
        return std::make_shared<Progress>(std::move(runtime), a.value(name).template As<Napi::Function>(),
                                          std::move(tell));
    }

    /// On the engine's thread: `add` puts what happened to what is still to be told.
    template <class F>
    void raise(const F& add) {
        {
            const std::lock_guard<std::mutex> hold(lock_);
            add(waiting_);
            if (std::exchange(queued_, true)) return;
        }
        runtime_->post([self = this->shared_from_this()](Napi::Env env) {
            std::unique_lock<std::mutex> hold(self->lock_);
            const T told = std::exchange(self->waiting_, T{});
            self->queued_ = false;
            hold.unlock();
            self->tell_(env, self->listener_, told);
        });
    }

 private:
    std::shared_ptr<Runtime> runtime_;
    Napi::FunctionReference listener_;
    Tell tell_;
    std::mutex lock_;
    T waiting_{};
    bool queued_ = false;
};

}  // namespace noema::napi
