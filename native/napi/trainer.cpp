#include "handle.h"

namespace noema::napi {

namespace {

constexpr const char* kBuffers[] = {"parameter", "gradient", "m", "v", "average", nullptr};
constexpr const char* kSources[] = {"parameter", "average", nullptr};

/// `publish("average")` and the like take plain strings; this gives them the readers' error texts.
Arguments named(const Napi::CallbackInfo& info, const char* function, std::initializer_list<const char*> names) {
    Napi::Object object = Napi::Object::New(info.Env());
    size_t i = 0;
    for (const char* name : names) {
        if (i < info.Length()) object.Set(name, info[i]);
        ++i;
    }
    return Arguments(object, function);
}

struct Accumulation {
    std::vector<int32_t> targets;
    std::vector<float> weights, losses;
    double sum = 0;
};

class TrainerHandle : public Handle<TrainerHandle, MaskedTrainer> {
 public:
    using Handle::Handle;

    static Napi::Value define(Napi::Env env) {
        return DefineClass(
            env, "NativeTrainer",
            {InstanceMethod("accumulate", &TrainerHandle::accumulate), InstanceMethod("step", &TrainerHandle::step),
             InstanceMethod("discard", &TrainerHandle::discard), InstanceMethod("losses", &TrainerHandle::losses),
             InstanceMethod("publish", &TrainerHandle::publish), InstanceMethod("names", &TrainerHandle::names),
             InstanceMethod("read", &TrainerHandle::read), InstanceMethod("write", &TrainerHandle::write),
             InstanceMethod("dispose", &TrainerHandle::dispose)});
    }

 private:
    Napi::Value accumulate(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "accumulate");
        const auto batch = read_batch(a);
        const auto state = std::make_shared<Accumulation>();
        state->targets = read_per_row(a, "targets", batch->batch);
        state->weights = a.floats("weights");
        if (state->weights.size() != state->targets.size()) a.refuse("weights", "batch * length entries");
        state->losses.resize(state->targets.size());
        const int64_t excluded = a.integer_or("excludedId", -1, -1, int64_t{1} << 31);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            const MaskedObjective objective{.targets = state->targets.data(),
                                            .row_weights = state->weights.data(),
                                            .excluded_id = excluded,
                                            .losses = state->losses.data()};
            return trainer->accumulate(engine, batch->batch, objective, state->sum, cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("lossSum", state->sum);
            out.Set("tokenLoss", to_array(env, state->losses));
            return out;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value step(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
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
        return runtime()->submit(info.Env(), {work, result, nullptr});
    }

    Napi::Value discard(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const auto work = [=](Engine& engine, const std::atomic<bool>*) { return trainer->discard(engine); };
        return runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value losses(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "losses");
        const auto batch = read_batch(a);
        const auto targets = std::make_shared<std::vector<int32_t>>(read_per_row(a, "targets", batch->batch));
        const int64_t excluded = a.integer_or("excludedId", -1, -1, int64_t{1} << 31);
        const bool average = a.choice("source", kSources) == 1;
        auto out = std::make_shared<std::vector<float>>(targets->size());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->losses(engine, batch->batch, targets->data(), excluded, average, out->data(), cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return to_array(env, *out); }, a.cancellation()});
    }

    Napi::Value publish(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const bool average = named(info, "publish", {"source"}).choice("source", kSources) == 1;
        const auto work = [=](Engine& engine, const std::atomic<bool>*) { return trainer->publish(engine, average); };
        return runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value names(const Napi::CallbackInfo& info) {
        Napi::Array out = Napi::Array::New(info.Env());
        for (const TensorSpec& spec : alive(info, "trainer")->tensors()) {
            Napi::Object entry = Napi::Object::New(info.Env());
            Napi::Array shape = Napi::Array::New(info.Env());
            shape.Set(0u, static_cast<double>(spec.rows));
            if (spec.is_matrix()) shape.Set(1u, static_cast<double>(spec.columns));
            entry.Set("name", spec.name);
            entry.Set("shape", shape);
            out.Set(out.Length(), entry);
        }
        return out;
    }

    Napi::Value read(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a = named(info, "read", {"buffer", "name"});
        const auto buffer = static_cast<TrainerBuffer>(a.choice("buffer", kBuffers));
        const std::string name = a.text("name");
        auto out = std::make_shared<std::vector<float>>(std::max<int64_t>(0, trainer->size_of(buffer, name)));
        const auto work = [=](Engine& engine, const std::atomic<bool>*) {
            return trainer->read(engine, buffer, name, out->data());
        };
        return runtime()->submit(info.Env(), {work, [=](Napi::Env env) { return to_array(env, *out); }, nullptr});
    }

    Napi::Value write(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a = named(info, "write", {"buffer", "name", "data"});
        const auto buffer = static_cast<TrainerBuffer>(a.choice("buffer", kBuffers));
        const std::string name = a.text("name");
        auto data = std::make_shared<std::vector<float>>(a.floats("data"));
        const int64_t size = trainer->size_of(buffer, name);
        if (size >= 0 && size != static_cast<int64_t>(data->size())) a.refuse("data", std::to_string(size) + " values");
        const auto work = [=](Engine& engine, const std::atomic<bool>*) {
            return trainer->write(engine, buffer, name, data->data());
        };
        return runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value dispose(const Napi::CallbackInfo& info) {
        drop();
        return info.Env().Undefined();
    }
};

}  // namespace

Napi::Value define_trainer(Napi::Env env) {
    return TrainerHandle::define(env);
}

Napi::Object new_trainer(Napi::Env env, std::shared_ptr<Runtime> runtime, std::shared_ptr<MaskedTrainer> trainer) {
    return TrainerHandle::make(addon_data(env).trainer, std::move(runtime), std::move(trainer));
}

}  // namespace noema::napi
