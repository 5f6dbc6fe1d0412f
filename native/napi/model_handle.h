// ModelHandle<Self, Model, Trainer>: what the wrapped models of all families can do. A family's own methods follow in its file.
#pragma once

#include "handle.h"

namespace noema::napi {

/// Self has a static new_trainer(env, runtime, trainer).
template <class Self, class Model, class Trainer>
class ModelHandle : public Handle<Self, Model> {
 public:
    explicit ModelHandle(const Napi::CallbackInfo& info) : Handle<Self, Model>(info) {
        bytes_ = static_cast<int64_t>(this->value()->weight_bytes());
        this->runtime()->weight_bytes += bytes_;
        Napi::MemoryManagement::AdjustExternalMemory(info.Env(), bytes_);
    }

    void Finalize(Napi::Env env) override { forget(env); }

 protected:
    using Method = typename Napi::ObjectWrap<Self>::InstanceMethodCallback;
    using Methods = std::vector<Napi::ClassPropertyDescriptor<Self>>;

    /// The class: these methods and the family's.
    static Napi::Value define_with(Napi::Env env, const char* name, Methods own) {
        const auto add = [&](const char* method, Method f) {
            own.push_back(Napi::ObjectWrap<Self>::InstanceMethod(method, f));
        };
        add("info", static_cast<Method>(&Self::info));
        add("trainer", static_cast<Method>(&Self::trainer));
        add("dispose", static_cast<Method>(&Self::dispose));
        return Napi::ObjectWrap<Self>::DefineClass(env, name, own);
    }

    Napi::Value info(const Napi::CallbackInfo& info) {
        const auto& model = this->alive(info, "model");
        Napi::Object out = Napi::Object::New(info.Env());
        out.Set("parameters", static_cast<double>(model->parameters()));
        out.Set("weightBytes", static_cast<double>(model->weight_bytes()));
        out.Set("precision", model->precision() == Precision::bf16 ? "bf16" : "f32");
        return out;
    }

    Napi::Value trainer(const Napi::CallbackInfo& info) {
        const auto model = this->alive(info, "model");
        const bool keep_average = Arguments(info, "trainer").boolean_or("keepAverage", false);
        auto out = std::make_shared<std::shared_ptr<Trainer>>();
        const auto work = [=](Engine& engine, const std::atomic<bool>*) {
            std::unique_ptr<Trainer> made;
            NOEMA_TRY(Trainer::create(engine, model, keep_average, made));
            *out = std::move(made);
            return Status{};
        };
        const auto result = [=, runtime = this->runtime()](Napi::Env env) -> Napi::Value {
            return Self::new_trainer(env, runtime, *out);
        };
        return this->runtime()->submit(info.Env(), {work, result, nullptr});
    }

    Napi::Value dispose(const Napi::CallbackInfo& info) {
        forget(info.Env());
        return info.Env().Undefined();
    }

 private:
    void forget(Napi::Env env) {
        if (!this->value()) return;
        this->runtime()->weight_bytes -= bytes_;
        Napi::MemoryManagement::AdjustExternalMemory(env, -bytes_);
        this->drop();
    }

    int64_t bytes_ = 0;
};

}  // namespace noema::napi
