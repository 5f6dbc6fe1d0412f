#include "model_handle.h"

namespace noema::napi {

std::vector<int32_t> read_per_row(const Arguments& a, const char* name, const MaskedBatch& b) {
    std::vector<int32_t> values = a.ids(name);
    if (static_cast<int64_t>(values.size()) != b.B * b.T)
        a.refuse(name, "batch * length = " + std::to_string(b.B * b.T) + " entries");
    return values;
}

std::shared_ptr<OwnedBatch> read_batch(const Arguments& a) {
    constexpr int64_t most = int64_t{1} << 24;
    auto owned = std::make_shared<OwnedBatch>();
    MaskedBatch& b = owned->batch;
    b.B = a.integer("batch", 1, most);
    b.T = a.integer("length", 1, most);
    owned->ids = read_per_row(a, "ids", b);
    owned->key_start = a.ids_or_empty("keyStart");
    owned->key_end = a.ids_or_empty("keyEnd");
    const auto ranges = [&](const char* name, const std::vector<int32_t>& v) {
        if (!v.empty() && static_cast<int64_t>(v.size()) != b.B) a.refuse(name, "one entry per sequence");
        return v.empty() ? nullptr : v.data();
    };
    b.ids = owned->ids.data();
    b.key_start = ranges("keyStart", owned->key_start);
    b.key_end = ranges("keyEnd", owned->key_end);
    return owned;
}

namespace {

struct ForwardOutput {
    std::vector<float> logits;
    std::vector<std::vector<float>> hidden;
};

class MaskedModelHandle : public ModelHandle<MaskedModelHandle, MaskedModel, MaskedTrainer> {
 public:
    using ModelHandle::ModelHandle;

    static Napi::Value define(Napi::Env env) {
        return define_with(env, "NativeMaskedModel",
                           {InstanceMethod("forward", &MaskedModelHandle::forward),
                            InstanceMethod("losses", &MaskedModelHandle::losses),
                            InstanceMethod("session", &MaskedModelHandle::session)});
    }
    static Napi::Object new_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<MaskedTrainer> trainer) {
        return new_masked_trainer(env, std::move(runtime), std::move(trainer));
    }

 private:
    Napi::Value forward(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "forward");
        const auto batch = read_batch(a);
        const bool logits = a.boolean_or("logits", false), hidden = a.boolean_or("hidden", false);
        auto out = std::make_shared<ForwardOutput>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            if (hidden) NOEMA_TRY(model->forward(engine, batch->batch, nullptr, &out->hidden, cancelled));
            if (!logits) return Status{};
            out->logits.resize(batch->batch.B * batch->batch.T * model->config().vocab_size);
            return model->logits(engine, batch->batch, out->logits.data(), cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object object = Napi::Object::New(env);
            if (logits) object.Set("logits", to_array(env, out->logits));
            if (!hidden) return object;
            object.Set("hidden", to_array(env, out->hidden));
            return object;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value losses(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "losses");
        const auto batch = read_batch(a);
        const auto targets = std::make_shared<std::vector<int32_t>>(read_per_row(a, "targets", batch->batch));
        const int64_t excluded = a.integer_or("excludedId", -1, -1, model->config().vocab_size - 1);
        auto out = std::make_shared<std::vector<float>>(targets->size());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->losses(engine, batch->batch, targets->data(), excluded, out->data(), cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return to_array(env, *out); }, a.cancellation()});
    }

    Napi::Value session(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "session");
        DecodeSession::Options o;
        o.B = a.integer("batch", 1, 1 << 20);
        o.T = a.integer("length", 1, 1 << 24);
        o.ids = a.ids("ids");
        o.key_start = a.ids_or_empty("keyStart");
        o.key_end = a.ids_or_empty("keyEnd");
        o.seeds = a.seeds("seeds");
        if (a.has("guidance")) {
            const Arguments guidance = a.object("guidance");
            o.guidance = static_cast<float>(guidance.number("scale"));
            o.prompt = guidance.bytes("prompt");
        }
        std::shared_ptr<DecodeSession> session;
        const Status status = DecodeSession::create(model, std::move(o), session);
        if (!status.ok()) throw_error(info.Env(), status);
        return new_masked_session(info.Env(), runtime(), session);
    }
};

}  // namespace

Napi::Value define_masked_model(Napi::Env env) {
    return MaskedModelHandle::define(env);
}

Napi::Object new_masked_model(Napi::Env env, std::shared_ptr<Runtime> runtime, std::shared_ptr<MaskedModel> model) {
    return MaskedModelHandle::make(addon_data(env).masked_model, std::move(runtime), std::move(model));
}

}  // namespace noema::napi
