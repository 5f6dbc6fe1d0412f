#include "flow_batch.h"
#include "training_handle.h"

namespace noema::napi {

namespace {

struct Accumulation {
    std::vector<float> weights;
    FlowPass pass;
};

Napi::Value readings_object(Napi::Env env, const FlowReadings& readings) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("losses", to_array(env, readings.losses));
    out.Set("tokens", to_array(env, readings.tokens));
    return out;
}

class FlowTrainerHandle : public TrainingHandle<FlowTrainerHandle, FlowTrainer> {
 public:
    using TrainingHandle::TrainingHandle;

    static Napi::Value define(Napi::Env env) {
        return define_with(env, "NativeFlowTrainer",
                           {InstanceMethod("accumulate", &FlowTrainerHandle::accumulate),
                            InstanceMethod("accumulateReadouts", &FlowTrainerHandle::accumulate_readouts),
                            InstanceMethod("readings", &FlowTrainerHandle::readings),
                            InstanceMethod("trainReadouts", &FlowTrainerHandle::train_readouts),
                            InstanceMethod("encode", &FlowTrainerHandle::encode),
                            InstanceMethod("trainFrom", &FlowTrainerHandle::train_from)});
    }

 private:
    Napi::Value accumulate(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "accumulate");
        const auto batch = read_flow_batch(a, trainer->config());
        const auto state = std::make_shared<Accumulation>();
        state->weights = a.floats("weights");
        const FlowBatch& b = batch->batch;
        const int64_t positions = b.B * (b.T - b.prefix) / trainer->config().patch_size;
        if (static_cast<int64_t>(state->weights.size()) != positions)
            a.refuse("weights", "one entry per modelled position, " + std::to_string(positions));
        const auto reconstruction = static_cast<float>(a.number_or("reconstruction", 1));
        const auto beginnings = static_cast<float>(a.number_or("beginnings", 0));
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            const FlowObjective objective{state->weights.data(), reconstruction, beginnings};
            return trainer->accumulate(engine, batch->batch, batch->source(), objective, state->pass, cancelled);
        };
        return runtime()->submit(
            info.Env(), {work, [=](Napi::Env env) { return pass_object(env, state->pass); }, a.cancellation()});
    }

    Napi::Value accumulate_readouts(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "accumulateReadouts");
        const auto batch = read_flow_batch(a, trainer->config());
        const auto weights = std::make_shared<std::vector<float>>(a.floats("weights"));
        const FlowBatch& b = batch->batch;
        const int64_t tokens = b.B * (b.T - b.prefix);
        if (static_cast<int64_t>(weights->size()) != tokens)
            a.refuse("weights", "one entry per modelled token, " + std::to_string(tokens));
        const auto out = std::make_shared<FlowReadings>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->accumulate_readouts(engine, batch->batch, batch->source(), weights->data(), *out,
                                                cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return readings_object(env, *out); }, a.cancellation()});
    }

    Napi::Value readings(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "readings");
        const auto batch = read_flow_batch(a, trainer->config());
        const bool average = a.choice("source", kSources) == 1;
        const auto out = std::make_shared<FlowReadings>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->readings(engine, batch->batch, batch->source(), average, *out, cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return readings_object(env, *out); }, a.cancellation()});
    }

    Napi::Value train_readouts(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const auto work = [=](Engine&, const std::atomic<bool>*) {
            trainer->train_readouts();
            return Status{};
        };
        return runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }

    Napi::Value encode(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "encode");
        const auto batch = read_flow_batch(a, trainer->config());
        const bool average = a.choice("source", kSources) == 1;
        auto out = std::make_shared<FlowPass>();
        out->keep_states = a.boolean_or("states", false);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->encode(engine, batch->batch, batch->source(), average, *out, cancelled);
        };
        const auto result = [=](Napi::Env env) { return pass_object(env, *out); };
        const auto details = [=](Napi::Env env) { return fault_object(env, out->fault); };
        return runtime()->submit(info.Env(), {work, result, a.cancellation(), nullptr, details});
    }

    Napi::Value train_from(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const int64_t flows = static_cast<int64_t>(trainer->config().flows.size());
        const auto a = named(info, "trainFrom", {"stage", "fixedMeans"});
        const int64_t stage = a.integer("stage", 0, flows - 1);
        const bool fixed_means = a.boolean_or("fixedMeans", false);
        const auto work = [=](Engine&, const std::atomic<bool>*) {
            trainer->train_from(stage, fixed_means);
            return Status{};
        };
        return runtime()->submit(info.Env(), {work, nullptr, nullptr});
    }
};

}  // namespace

Napi::Value define_flow_trainer(Napi::Env env) {
    return FlowTrainerHandle::define(env);
}

Napi::Object new_flow_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<FlowTrainer> trainer) {
    return FlowTrainerHandle::make(addon_data(env).flow_trainer, std::move(runtime), std::move(trainer));
}

}  // namespace noema::napi
