// Handle<Self, T>: a wrapped native object. `dispose()` drops it; a method on a disposed handle throws ERR_DISPOSED. Instances
// are made by native code only: the constructor takes what set_next() left.
#pragma once

#include <tuple>
#include <utility>

#include "runtime.h"

namespace noema::napi {

template <class Self, class T>
class Handle : public Napi::ObjectWrap<Self> {
 public:
    explicit Handle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Self>(info) {
        if (!next().second)
            throw_error(info.Env(), Status::error(Code::invalid_argument, "this class is not to be constructed"));
        std::tie(runtime_, value_) = std::exchange(next(), {});
    }

    static Napi::Object make(Napi::FunctionReference& constructor, std::shared_ptr<Runtime> runtime,
                             std::shared_ptr<T> value) {
        next() = {std::move(runtime), std::move(value)};
        return constructor.New({});
    }

 protected:
    /// The object, or a thrown ERR_DISPOSED.
    const std::shared_ptr<T>& alive(const Napi::CallbackInfo& info, const char* what) const {
        if (!value_ || runtime_->stopped())
            throw_error(info.Env(), Status::error(Code::disposed, "the %s was disposed", what));
        return value_;
    }
    void drop() { value_.reset(); }
    const std::shared_ptr<T>& value() const { return value_; }
    const std::shared_ptr<Runtime>& runtime() const { return runtime_; }

 private:
    using Next = std::pair<std::shared_ptr<Runtime>, std::shared_ptr<T>>;
    static Next& next() {
        static thread_local Next slot;
        return slot;
    }
    std::shared_ptr<Runtime> runtime_;
    std::shared_ptr<T> value_;
};

/// A batch whose arrays the job owns.
struct OwnedBatch {
    std::vector<int32_t> ids, key_start, key_end;
    MaskedBatch batch;
};
/// Reads ids, batch, length, keyStart, keyEnd; refuses sizes that do not agree.
std::shared_ptr<OwnedBatch> read_batch(const Arguments& arguments);
/// An Int32Array of one entry per row of the batch.
std::vector<int32_t> read_per_row(const Arguments& arguments, const char* name, const MaskedBatch& batch);

}  // namespace noema::napi
