#include "thought_batch.h"
#include "training_handle.h"

namespace noema::napi {

namespace {

/// What one training call reads and gives back.
struct Lesson {
    std::shared_ptr<OwnedThoughtBatch> batch;
    std::vector<float> weights, z, losses;
    std::shared_ptr<OwnedFit> fit;  // none where z is given
    bool trajectory = false;

    ThoughtLesson task() const {
        ThoughtLesson l{.batch = batch->batch, .weights = weights.data(), .trajectory = trajectory};
        if (!fit) {
            l.z = z.data();
            return l;
        }
        l.start = fit->task.start;
        l.fit = fit->task.options;
        return l;
    }
};

bool of_average(const Arguments& a) {
    return a.choice("source", kSources) == 1;
}

class ThoughtTrainerHandle : public TrainingHandle<ThoughtTrainerHandle, ThoughtTrainer> {
 public:
    using TrainingHandle::TrainingHandle;

    static Napi::Value define(Napi::Env env) {
        return define_with(
            env, "NativeThoughtTrainer",
            {InstanceMethod("accumulate", &ThoughtTrainerHandle::accumulate),
             InstanceMethod("losses", &ThoughtTrainerHandle::losses), InstanceMethod("fit", &ThoughtTrainerHandle::fit),
             InstanceMethod("bound", &ThoughtTrainerHandle::bound)});
    }

 private:
    Napi::Value accumulate(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "accumulate");
        const auto lesson = std::make_shared<Lesson>();
        lesson->batch = read_thought_batch(a);
        const int64_t B = lesson->batch->batch.B;
        lesson->weights = a.floats("weights");
        if (lesson->weights.size() != lesson->batch->ids.size()) a.refuse("weights", "batch * length entries");
        lesson->losses.resize(lesson->weights.size());
        lesson->z = read_latents(a, "z", B, trainer->config());
        lesson->trajectory = a.boolean_or("trajectory", false);
        if (a.has("z") == a.has("fit")) a.refuse("z", "either z or a fit");
        if (a.has("fit")) lesson->fit = read_fit(a, lesson->batch, trainer->config());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            Posterior none;
            return trainer->accumulate(engine, lesson->task(), lesson->losses.data(),
                                       lesson->fit ? lesson->fit->posterior : none, cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("tokenLoss", to_array(env, lesson->losses));
            if (lesson->fit) out.Set("posterior", fit_object(env, *lesson->fit));
            return out;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value losses(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "losses");
        const auto batch = read_thought_batch(a);
        if (batch->targets.empty()) a.refuse("targets", "an Int32Array");
        if (!a.has("z")) a.refuse("z", "a Float32Array");
        const auto z = std::make_shared<std::vector<float>>(read_latents(a, "z", batch->batch.B, trainer->config()));
        const bool average = of_average(a);
        const auto out = std::make_shared<std::vector<float>>(batch->ids.size());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->losses(engine, batch->batch, z->data(), average, out->data(), cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return to_array(env, *out); }, a.cancellation()});
    }

    Napi::Value fit(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "fit");
        const auto fit = read_fit(a, read_thought_batch(a), trainer->config());
        const bool average = of_average(a);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->fit(engine, fit->task, average, fit->posterior, cancelled);
        };
        return runtime()->submit(info.Env(), fit_job(fit, a, work));
    }

    Napi::Value bound(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "bound");
        const auto bound = read_bound(a, trainer->config());
        const bool average = of_average(a);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->bound(engine, bound->task, average, bound->bound, cancelled);
        };
        return runtime()->submit(
            info.Env(), {work, [=](Napi::Env env) { return bound_object(env, bound->bound); }, a.cancellation()});
    }
};

}  // namespace

Napi::Value define_thought_trainer(Napi::Env env) {
    return ThoughtTrainerHandle::define(env);
}

Napi::Object new_thought_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<ThoughtTrainer> trainer) {
    return ThoughtTrainerHandle::make(addon_data(env).thought_trainer, std::move(runtime), std::move(trainer));
}

}  // namespace noema::napi
