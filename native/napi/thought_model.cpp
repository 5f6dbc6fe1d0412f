#include "model_handle.h"
#include "progress.h"
#include "thought_batch.h"

namespace noema::napi {

namespace {

/// How far a fit has come.
struct FitProgress {
    int64_t steps = 0;
    std::vector<float> objective;
};

struct ForwardOutput {
    std::vector<float> logits;
    std::vector<int32_t> likeliest;
    std::vector<std::vector<float>> hidden, attention;
};

/// A continuation whose arrays the job owns, and what it gives back.
struct OwnedContinuation {
    std::vector<int32_t> ids, lengths;
    std::vector<float> z;
    std::vector<uint64_t> seeds;
    ContinuationTask task;
    Continuation made;
};

std::shared_ptr<OwnedContinuation> read_continuation(const Arguments& a, const ThoughtConfig& config) {
    auto owned = std::make_shared<OwnedContinuation>();
    ContinuationTask& task = owned->task;
    const auto batch = read_thought_batch(a);
    task.B = batch->batch.B;
    task.T = batch->batch.T;
    owned->ids = std::move(batch->ids);
    owned->lengths = a.ids_or_empty("lengths");
    if (a.has("lengths") && static_cast<int64_t>(owned->lengths.size()) != task.B)
        a.refuse("lengths", "one per sequence, " + std::to_string(task.B));
    owned->z = read_latents(a, "z", task.B, config);
    owned->seeds = read_seeds(a, task.B);
    task.ids = owned->ids.data();
    task.lengths = owned->lengths.empty() ? nullptr : owned->lengths.data();
    task.z = owned->z.empty() ? nullptr : owned->z.data();
    task.seeds = owned->seeds.empty() ? nullptr : owned->seeds.data();
    task.tokens = a.integer("tokens", 0, int64_t{1} << 24);
    task.temperature = static_cast<float>(a.number("temperature"));
    task.top_k = a.integer("topK", 0, int64_t{1} << 31);
    task.top_p = static_cast<float>(a.number("topP"));
    task.end_id = a.integer_or("endId", -1, -1, int64_t{1} << 31);
    task.logits = a.boolean_or("logits", false);
    return owned;
}

Napi::Value continuation_object(Napi::Env env, const OwnedContinuation& owned) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("tokens", to_array(env, owned.made.tokens));
    out.Set("confidence", to_array(env, owned.made.confidence));
    if (owned.task.logits) out.Set("logits", to_array(env, owned.made.logits));
    return out;
}

class ThoughtModelHandle : public ModelHandle<ThoughtModelHandle, ThoughtModel, ThoughtTrainer> {
 public:
    using ModelHandle::ModelHandle;

    static Napi::Value define(Napi::Env env) {
        return define_with(
            env, "NativeThoughtModel",
            {InstanceMethod("forward", &ThoughtModelHandle::forward),
             InstanceMethod("losses", &ThoughtModelHandle::losses), InstanceMethod("fit", &ThoughtModelHandle::fit),
             InstanceMethod("bound", &ThoughtModelHandle::bound),
             InstanceMethod("continue", &ThoughtModelHandle::continue_text)});
    }
    static Napi::Object new_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<ThoughtTrainer> trainer) {
        return new_thought_trainer(env, std::move(runtime), std::move(trainer));
    }

 private:
    /// z of a batch; the job's.
    std::shared_ptr<std::vector<float>> read_z(const Arguments& a, const ThoughtBatch& batch) {
        if (!a.has("z")) a.refuse("z", "a Float32Array");
        return std::make_shared<std::vector<float>>(read_latents(a, "z", batch.B, value()->config()));
    }

    Napi::Value forward(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "forward");
        const auto batch = read_thought_batch(a);
        const auto z = read_z(a, batch->batch);
        const bool logits = a.boolean_or("logits", false), hidden = a.boolean_or("hidden", false);
        const bool likeliest = a.boolean_or("likeliest", false), attention = a.boolean_or("attention", false);
        const auto out = std::make_shared<ForwardOutput>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            const int64_t R = batch->batch.B * batch->batch.T;
            ThoughtModel::Outputs outputs;
            std::vector<float> last(hidden ? R * model->config().hidden_size : 0);
            if (logits) out->logits.resize(R * model->config().vocab_size);
            if (logits) outputs.logits = out->logits.data();
            if (hidden) outputs.trace = &out->hidden, outputs.hidden = last.data();
            if (likeliest) out->likeliest.resize(R);
            if (likeliest) outputs.likeliest = out->likeliest.data();
            if (attention) outputs.attention = &out->attention;
            NOEMA_TRY(model->forward(engine, batch->batch, z->data(), outputs, cancelled));
            if (hidden) out->hidden.push_back(std::move(last));
            return Status{};
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object object = Napi::Object::New(env);
            if (logits) object.Set("logits", to_array(env, out->logits));
            if (hidden) object.Set("hidden", to_array(env, out->hidden));
            if (likeliest) object.Set("likeliest", to_array(env, out->likeliest));
            if (attention) object.Set("attention", to_array(env, out->attention));
            return object;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value losses(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "losses");
        const auto batch = read_thought_batch(a);
        if (batch->targets.empty()) a.refuse("targets", "an Int32Array");
        const auto z = read_z(a, batch->batch);
        const auto out = std::make_shared<std::vector<float>>(batch->ids.size());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->losses(engine, batch->batch, z->data(), out->data(), cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return to_array(env, *out); }, a.cancellation()});
    }

    Napi::Value fit(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "fit");
        const auto fit = read_fit(a, read_thought_batch(a), model->config());
        const auto progress = Progress<FitProgress>::read(
            a, "onProgress", runtime(),
            [](Napi::Env env, const Napi::FunctionReference& listener, const FitProgress& p) {
                listener.Call({Napi::Number::New(env, static_cast<double>(p.steps)), to_array(env, p.objective)});
            });
        if (progress)
            fit->task.progress = [progress](int64_t steps, const std::vector<float>& objective) {
                progress->raise([&](FitProgress& latest) { latest = {steps, objective}; });
            };
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->fit(engine, fit->task, fit->posterior, cancelled);
        };
        return runtime()->submit(info.Env(), fit_job(fit, a, work));
    }

    Napi::Value bound(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "bound");
        const auto bound = read_bound(a, model->config());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->bound(engine, bound->task, bound->bound, cancelled);
        };
        return runtime()->submit(
            info.Env(), {work, [=](Napi::Env env) { return bound_object(env, bound->bound); }, a.cancellation()});
    }

    Napi::Value continue_text(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "continue");
        const auto owned = read_continuation(a, model->config());
        using Tokens = std::vector<int32_t>;
        const auto progress = Progress<Tokens>::read(
            a, "onTokens", runtime(), [](Napi::Env env, const Napi::FunctionReference& listener, const Tokens& tokens) {
                listener.Call({to_array(env, tokens)});
            });
        if (progress)
            owned->task.progress = [progress](const Tokens& step) {
                progress->raise([&](Tokens& told) { told.insert(told.end(), step.begin(), step.end()); });
            };
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->continue_text(engine, owned->task, owned->made, cancelled);
        };
        const auto value = [=](Napi::Env env) { return continuation_object(env, *owned); };
        return runtime()->submit(info.Env(), {work, value, a.cancellation(), value});
    }
};

}  // namespace

Napi::Value define_thought_model(Napi::Env env) {
    return ThoughtModelHandle::define(env);
}

Napi::Object new_thought_model(Napi::Env env, RuntimePointer runtime, std::shared_ptr<ThoughtModel> model) {
    return ThoughtModelHandle::make(addon_data(env).thought_model, std::move(runtime), std::move(model));
}

}  // namespace noema::napi
