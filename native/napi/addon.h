// What the files of this folder share: per-environment data, errors, argument readers. No loops over elements, no policy here.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "noema/flow_model.h"
#include "noema/masked_model.h"
#include "noema/thought_model.h"

namespace noema::napi {

class Runtime;

/// One per N-API environment (main thread, each worker thread).
struct AddonData {
    Napi::FunctionReference error_class;  // NoemaError of lib/errors.ts
    Napi::FunctionReference engine, cancellation, masked_model, masked_session, masked_trainer, flow_model,
        flow_trainer, thought_model, thought_trainer;
    std::vector<std::weak_ptr<Runtime>> runtimes;  // all that there are
};

AddonData& addon_data(Napi::Env env);

/// An instance of the class that initialise() was given (a plain Error before that). `details`: an object, or absent.
Napi::Error make_error(Napi::Env env, const Status& status, const Napi::Value& details = {});
[[noreturn]] void throw_error(Napi::Env env, const Status& status);

/// Tags of wrapped objects, so that a wrong handle is refused and never reinterpreted.
extern const napi_type_tag kCancellationTag;

/// Reads named properties of one options object; every refusal names the property and what was expected.
class Arguments {
 public:
    Arguments(const Napi::CallbackInfo& info, const char* function);
    Arguments(const Napi::Object& object, const char* function);

    int64_t integer(const char* name, int64_t low, int64_t high) const;
    int64_t integer_or(const char* name, int64_t fallback, int64_t low, int64_t high) const;
    double number(const char* name) const;
    double number_or(const char* name, double fallback) const;
    bool boolean_or(const char* name, bool fallback) const;
    std::string text(const char* name) const;
    /// The index of the property's text among `choices` (ended by null).
    int choice(const char* name, const char* const* choices) const;
    bool has(const char* name) const;
    Arguments object(const char* name) const;
    std::vector<Arguments> list(const char* name) const;
    Napi::Value value(const char* name) const { return object_.Get(name); }

    /// Copies of typed arrays: the caller may change or transfer its own while the engine works.
    std::vector<int32_t> ids(const char* name) const;
    std::vector<int32_t> ids_or_empty(const char* name) const;
    std::vector<float> floats(const char* name) const;
    std::vector<float> floats_or_empty(const char* name) const;
    /// A state: a Float64Array, or a Float32Array widened.
    std::vector<double> state(const char* name) const;
    std::vector<uint8_t> bytes(const char* name) const;
    std::vector<uint64_t> seeds(const char* name) const;
    /// The flag of `cancellation`, or a fresh one.
    std::shared_ptr<std::atomic<bool>> cancellation() const;

    [[noreturn]] void refuse(const char* name, const std::string& expected) const;

 private:
    template <class T>
    std::vector<T> array(const char* name, napi_typedarray_type type, const char* expected) const;

    Napi::Object object_;
    const char* function_;
};

/// Typed arrays with a copy of the values; the last an array of such.
Napi::Value to_array(Napi::Env env, const std::vector<float>& values);
Napi::Value to_array(Napi::Env env, const std::vector<double>& values);
Napi::Value to_array(Napi::Env env, const std::vector<int32_t>& values);
Napi::Value to_array(Napi::Env env, const std::vector<std::vector<float>>& values);
Napi::Value to_array(Napi::Env env, const std::vector<std::vector<double>>& values);
Napi::Value to_array(Napi::Env env, const std::vector<std::vector<int32_t>>& values);

// Every class of the addon: how it is defined, and how native code makes an instance.
Napi::Value define_engine(Napi::Env env);
Napi::Value define_cancellation(Napi::Env env);
Napi::Value define_masked_model(Napi::Env env);
Napi::Value define_masked_session(Napi::Env env);
Napi::Value define_masked_trainer(Napi::Env env);
Napi::Value define_flow_model(Napi::Env env);
Napi::Value define_flow_trainer(Napi::Env env);
Napi::Value define_thought_model(Napi::Env env);
Napi::Value define_thought_trainer(Napi::Env env);

using RuntimePointer = std::shared_ptr<Runtime>;
Napi::Object new_masked_model(Napi::Env env, RuntimePointer runtime, std::shared_ptr<MaskedModel> model);
Napi::Object new_masked_session(Napi::Env env, RuntimePointer runtime, std::shared_ptr<DecodeSession> session);
Napi::Object new_masked_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<MaskedTrainer> trainer);
Napi::Object new_flow_model(Napi::Env env, RuntimePointer runtime, std::shared_ptr<FlowModel> model);
Napi::Object new_flow_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<FlowTrainer> trainer);
Napi::Object new_thought_model(Napi::Env env, RuntimePointer runtime, std::shared_ptr<ThoughtModel> model);
Napi::Object new_thought_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<ThoughtTrainer> trainer);

}  // namespace noema::napi
