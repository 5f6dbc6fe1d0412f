// A flag that JavaScript raises and a running job looks at.
#pragma once

#include "addon.h"

namespace noema::napi {

class Cancellation : public Napi::ObjectWrap<Cancellation> {
 public:
    explicit Cancellation(const Napi::CallbackInfo& info);
    std::shared_ptr<std::atomic<bool>> flag() const { return flag_; }

 private:
    friend Napi::Value define_cancellation(Napi::Env env);
    Napi::Value cancel(const Napi::CallbackInfo& info);
    std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace noema::napi
