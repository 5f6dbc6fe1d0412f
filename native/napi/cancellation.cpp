#include "cancellation.h"

#include "runtime.h"

namespace noema::napi {

const napi_type_tag kCancellationTag = {0x5b0c1e5f4d3a4b19, 0x8f27c0aa6be3d411};

Cancellation::Cancellation(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Cancellation>(info) {
    info.This().As<Napi::Object>().TypeTag(&kCancellationTag);
}

Napi::Value Cancellation::cancel(const Napi::CallbackInfo& info) {
    flag_->store(true, std::memory_order_relaxed);
    for (const auto& runtime : addon_data(info.Env()).runtimes)
        if (const auto alive = runtime.lock()) alive->withdraw_cancelled(info.Env());
    return info.Env().Undefined();
}

Napi::Value define_cancellation(Napi::Env env) {
    return Cancellation::DefineClass(env, "Cancellation",
                                     {Cancellation::InstanceMethod("cancel", &Cancellation::cancel)});
}

}  // namespace noema::napi
