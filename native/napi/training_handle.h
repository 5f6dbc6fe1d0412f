// TrainingHandle<Self, Trainer>: what the wrapped trainers of all families can do. A family's own methods follow in its file.
#pragma once

#include "handle.h"

namespace noema::napi {

constexpr const char* kBuffers[] = {"parameter", "gradient", "m", "v", "average", nullptr};
constexpr const char* kSources[] = {"parameter", "average", nullptr};

/// `publish("average")` and the like take plain strings; this gives them the readers' error texts.
inline Arguments named(const Napi::CallbackInfo& info, const char* function, std::initializer_list<const char*> names) {
    Napi::Object object = Napi::Object::New(info.Env());
    size_t i = 0;
    for (const char* name : names) {
        if (i < info.Length()) object.Set(name, info[i]);
        ++i;
    }
    return Arguments(object, function);
}

template <class Self, class Trainer>
class TrainingHandle : public Handle<Self, Trainer> {
 public:
    using Handle<Self, Trainer>::Handle;

 protected:
    using Method = typename Napi::ObjectWrap<Self>::InstanceMethodCallback;
    using Methods = std::vector<Napi::ClassPropertyDescriptor<Self>>;

    /// The class: these methods and the family's.
    static Napi::Value define_with(Napi::Env env, const char* name, Methods own) {
        const auto add = [&](const char* method, Method f) {
            own.push_back(Napi::ObjectWrap<Self>::InstanceMethod(method, f));
        };
        add("step", static_cast<Method>(&Self::step));
        add("discard", static_cast<Method>(&Self::discard));
        add("publish", static_cast<Method>(&Self::publish));
        add("names", static_cast<Method>(&Self::names));
        add("read", static_cast<Method>(&Self::read));
        add("write", static_cast<Method>(&Self::write));
        add("dispose", static_cast<Method>(&Self::dispose));
        return Napi::ObjectWrap<Self>::DefineClass(env, name, own);
    }

    Napi::Value step(const Napi::CallbackInfo& info) {
        const auto trainer = this->alive(info, "trainer");
        const Arguments a(info, "step");
        OptimiserStep o;
        o.rate = static_cast<float>(a.number("rate"));
        o.beta1 = static_cast<float>(a.number("beta1"));
        o.beta2 = static_cast<float>(a.number("beta2"));
        o.epsilon = static_cast<float>(a.number("epsilon"));
        o.weight_decay = static_cast<float>(a.number("weightDecay"));
        o.max_norm = static_cast<float>(a.number("maxNorm"));
        o.gradient_scale = static_cast<float>(a.number("gradientScale"));
        o.ema_decay = static_cast<float>(a.number("emaDecay"));
        o.step = a.integer("step", 1, int64_t{1} << 40);
        auto norm = std::make_shared<float>(0.0f);
        const auto work = [=](Engine& engine, const std::atomic<bool>*) { return trainer->step(engine, o, *norm); };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("gradientNorm", *norm);
            return out;
        };
        return this->runtime()->submit(info.Env(), {work, result, nullptr});
    }

    Napi::Value discard(const Napi::CallbackInfo& info) {
        const auto trainer = this->alive(info, "trainer");
        const auto work = [=](Engine& engine, const std::atomic<bool>*) { return trainer->discard(engine); };
        return this->runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value publish(const Napi::CallbackInfo& info) {
        const auto trainer = this->alive(info, "trainer");
        const bool average = named(info, "publish", {"source"}).choice("source", kSources) == 1;
        const auto work = [=](Engine& engine, const std::atomic<bool>*) { return trainer->publish(engine, average); };
        return this->runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value names(const Napi::CallbackInfo& info) {
        Napi::Array out = Napi::Array::New(info.Env());
        for (const TensorSpec& spec : this->alive(info, "trainer")->tensors()) {
            Napi::Object entry = Napi::Object::New(info.Env());
            Napi::Array shape = Napi::Array::New(info.Env());
            for (const int64_t extent : spec.shape()) shape.Set(shape.Length(), static_cast<double>(extent));
            entry.Set("name", spec.name);
            entry.Set("shape", shape);
            out.Set(out.Length(), entry);
        }
        return out;
    }

    Napi::Value read(const Napi::CallbackInfo& info) {
        const auto trainer = this->alive(info, "trainer");
        const Arguments a = named(info, "read", {"buffer", "name"});
        const auto buffer = static_cast<TrainerBuffer>(a.choice("buffer", kBuffers));
        const std::string name = a.text("name");
        auto out = std::make_shared<std::vector<float>>(std::max<int64_t>(0, trainer->size_of(buffer, name)));
        const auto work = [=](Engine& engine, const std::atomic<bool>*) {
            return trainer->read(engine, buffer, name, out->data());
        };
        return this->runtime()->submit(info.Env(), {work, [=](Napi::Env env) { return to_array(env, *out); }, nullptr});
    }

    Napi::Value write(const Napi::CallbackInfo& info) {
        const auto trainer = this->alive(info, "trainer");
        const Arguments a = named(info, "write", {"buffer", "name", "data"});
        const auto buffer = static_cast<TrainerBuffer>(a.choice("buffer", kBuffers));
        const std::string name = a.text("name");
        auto data = std::make_shared<std::vector<float>>(a.floats("data"));
        const int64_t size = trainer->size_of(buffer, name);
        if (size >= 0 && size != static_cast<int64_t>(data->size())) a.refuse("data", std::to_string(size) + " values");
        const auto work = [=](Engine& engine, const std::atomic<bool>*) {
            return trainer->write(engine, buffer, name, data->data());
        };
        return this->runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value dispose(const Napi::CallbackInfo& info) {
        this->drop();
        return info.Env().Undefined();
    }
};

}  // namespace noema::napi
