// The exports table.
#include <cstdlib>

#include "addon.h"
#include "cancellation.h"
#include "noema/rng.h"
#include "runtime.h"

namespace noema::napi {

AddonData& addon_data(Napi::Env env) {
    return *env.GetInstanceData<AddonData>();
}

Napi::Error make_error(Napi::Env env, const Status& status, const Napi::Value& details) {
    const AddonData& data = addon_data(env);
    if (data.error_class.IsEmpty())
        return Napi::Error::New(env, std::string(code_name(status.code)) + ": " + status.text);
    const Napi::Object error =
        data.error_class.New({Napi::String::New(env, code_name(status.code)), Napi::String::New(env, status.text),
                              details.IsEmpty() ? env.Undefined() : details});
    return Napi::Error(env, error);
}

void throw_error(Napi::Env env, const Status& status) {
    throw make_error(env, status);
}

namespace {

Napi::Array names(Napi::Env env, const char* const* list) {
    Napi::Array out = Napi::Array::New(env);
    for (uint32_t i = 0; list[i]; ++i) out.Set(i, list[i]);
    return out;
}

Napi::Value initialise(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsFunction())
        throw_error(info.Env(), Status::error(Code::invalid_argument, "initialise: expected the error class"));
    addon_data(info.Env()).error_class = Napi::Persistent(info[0].As<Napi::Function>());
    return info.Env().Undefined();
}

Napi::Value describe(const Napi::CallbackInfo& info) {
    const Backend& cpu = *find_backend("cpu");
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("version", NOEMA_VERSION);
    out.Set("backends", names(info.Env(), backend_names()));
    out.Set("isa", cpu.current_isa());
    out.Set("isaList", names(info.Env(), cpu.isa_list()));
    out.Set("cores", ThreadTeam::available_cores());
    return out;
}

Napi::Value force_isa(const Napi::CallbackInfo& info) {
    const bool named = info.Length() > 0 && info[0].IsString();
    const std::string name = named ? info[0].As<Napi::String>().Utf8Value() : "";
    const Status status = find_backend("cpu")->force_isa(named ? name.c_str() : nullptr);
    if (!status.ok()) throw_error(info.Env(), status);
    return info.Env().Undefined();
}

/// Opens a device's backend in this process: may take seconds, and a broken driver may take the process with it. Meant for a child
/// process.
Napi::Value probe(const Napi::CallbackInfo& info) {
    const std::string name = info.Length() > 0 && info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
    const Backend* backend = nullptr;
    Status status = open_backend(name.c_str(), &backend);
    Napi::Object out = Napi::Object::New(info.Env());
    if (status.ok()) {
        Engine engine(*backend, 1);
        status = engine.execute([](Context&) { return Status{}; });
        if (backend->describe) out.Set("description", backend->describe());
    }
    out.Set("usable", status.ok());
    if (!status.ok()) out.Set("reason", status.text);
    return out;
}

Napi::Value status_codes(const Napi::CallbackInfo& info) {
    Napi::Array out = Napi::Array::New(info.Env());
    const auto add = [&](const char* name, const char* code, const char* meaning) {
        Napi::Object entry = Napi::Object::New(info.Env());
        entry.Set("name", name);
        entry.Set("code", code);
        entry.Set("meaning", meaning);
        out.Set(out.Length(), entry);
    };
#define NOEMA_STATUS(name, code, meaning) add(#name, code, meaning);
#include "noema/status.def"
#undef NOEMA_STATUS
    return out;
}

Napi::Value uniform(const Napi::CallbackInfo& info) {
    bool lossless = false;
    const uint64_t seed = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
    const auto word = [&](size_t i) { return info[i].As<Napi::Number>().Uint32Value(); };
    return Napi::Number::New(info.Env(), rng_uniform(seed, static_cast<RngStream>(word(1)), word(2), word(3), word(4)));
}

Napi::Value create_engine(const Napi::CallbackInfo& info) {
    const Napi::Value options = info.Length() ? info[0] : info.Env().Undefined();
    return addon_data(info.Env()).engine.New({options});
}

Napi::Value create_cancellation(const Napi::CallbackInfo& info) {
    return addon_data(info.Env()).cancellation.New({});
}

}  // namespace

Napi::Object make_exports(Napi::Env env, Napi::Object exports) {
    auto* data = new AddonData;
    env.SetInstanceData(data);
    const auto keep = [](Napi::FunctionReference& slot, Napi::Value value) {
        slot = Napi::Persistent(value.As<Napi::Function>());
    };
    keep(data->engine, define_engine(env));
    keep(data->cancellation, define_cancellation(env));
    keep(data->masked_model, define_masked_model(env));
    keep(data->masked_session, define_masked_session(env));
    keep(data->masked_trainer, define_masked_trainer(env));
    keep(data->flow_model, define_flow_model(env));
    keep(data->flow_trainer, define_flow_trainer(env));
    keep(data->thought_model, define_thought_model(env));
    keep(data->thought_trainer, define_thought_trainer(env));
    exports.Set("initialise", Napi::Function::New(env, initialise));
    exports.Set("info", Napi::Function::New(env, describe));
    exports.Set("forceIsa", Napi::Function::New(env, force_isa));
    exports.Set("probe", Napi::Function::New(env, probe));
    exports.Set("statusCodes", Napi::Function::New(env, status_codes));
    exports.Set("rngUniform", Napi::Function::New(env, uniform));
    exports.Set("createEngine", Napi::Function::New(env, create_engine));
    exports.Set("createCancellation", Napi::Function::New(env, create_cancellation));
    return exports;
}

}  // namespace noema::napi

static Napi::Object initialise_noema(Napi::Env env, Napi::Object exports) {
    return noema::napi::make_exports(env, exports);
}

NODE_API_MODULE(noema, initialise_noema)
