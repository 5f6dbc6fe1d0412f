#include <cmath>
#include <cstring>

#include "addon.h"
#include "cancellation.h"

namespace noema::napi {

Arguments::Arguments(const Napi::CallbackInfo& info, const char* function) : function_(function) {
    if (info.Length() < 1 || !info[0].IsObject())
        throw_error(info.Env(), Status::error(Code::invalid_argument, "%s: expected an options object", function));
    object_ = info[0].As<Napi::Object>();
}

Arguments::Arguments(const Napi::Object& object, const char* function) : object_(object), function_(function) {}

void Arguments::refuse(const char* name, const std::string& expected) const {
    const std::string found = object_.Get(name).ToString().Utf8Value().substr(0, 60);
    throw_error(object_.Env(), Status::error(Code::invalid_argument, "%s: %s is %s, expected %s", function_, name,
                                             found.c_str(), expected.c_str()));
}

bool Arguments::has(const char* name) const {
    const Napi::Value v = object_.Get(name);
    return !v.IsUndefined() && !v.IsNull();
}

double Arguments::number(const char* name) const {
    const Napi::Value v = object_.Get(name);
    if (!v.IsNumber() || !std::isfinite(v.As<Napi::Number>().DoubleValue())) refuse(name, "a finite number");
    return v.As<Napi::Number>().DoubleValue();
}

double Arguments::number_or(const char* name, double fallback) const {
    return has(name) ? number(name) : fallback;
}

int64_t Arguments::integer(const char* name, int64_t low, int64_t high) const {
    const Napi::Value v = object_.Get(name);
    const double d = v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : NAN;
    if (!(d == std::floor(d)) || d < static_cast<double>(low) || d > static_cast<double>(high))
        refuse(name, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    return static_cast<int64_t>(d);
}

int64_t Arguments::integer_or(const char* name, int64_t fallback, int64_t low, int64_t high) const {
    return has(name) ? integer(name, low, high) : fallback;
}

bool Arguments::boolean_or(const char* name, bool fallback) const {
    if (!has(name)) return fallback;
    const Napi::Value v = object_.Get(name);
    if (!v.IsBoolean()) refuse(name, "true or false");
    return v.As<Napi::Boolean>().Value();
}

std::string Arguments::text(const char* name) const {
    const Napi::Value v = object_.Get(name);
    if (!v.IsString()) refuse(name, "a string");
    return v.As<Napi::String>().Utf8Value();
}

int Arguments::choice(const char* name, const char* const* choices) const {
    const std::string found = text(name);
    std::string all;
    for (int i = 0; choices[i]; ++i) {
        if (found == choices[i]) return i;
        all += (i ? ", " : "") + std::string(choices[i]);
    }
    refuse(name, "one of " + all);
}

Arguments Arguments::object(const char* name) const {
    const Napi::Value v = object_.Get(name);
    if (!v.IsObject()) refuse(name, "an object");
    return Arguments(v.As<Napi::Object>(), function_);
}

namespace {

template <class T>
std::vector<T> copy_of(const Napi::Value& v, napi_typedarray_type type, const T* (*data)(const Napi::TypedArray&)) {
    if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != type) return {};
    const Napi::TypedArray array = v.As<Napi::TypedArray>();
    const T* from = data(array);
    return std::vector<T>(from, from + array.ElementLength());
}

template <class T>
const T* elements(const Napi::TypedArray& array) {
    return reinterpret_cast<const T*>(static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset());
}

bool is_array(const Napi::Value& v, napi_typedarray_type type) {
    return v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == type;
}

}  // namespace

std::vector<int32_t> Arguments::ids(const char* name) const {
    if (!is_array(object_.Get(name), napi_int32_array)) refuse(name, "an Int32Array");
    return ids_or_empty(name);
}
std::vector<int32_t> Arguments::ids_or_empty(const char* name) const {
    if (has(name) && !is_array(object_.Get(name), napi_int32_array)) refuse(name, "an Int32Array");
    return copy_of<int32_t>(object_.Get(name), napi_int32_array, elements<int32_t>);
}
std::vector<float> Arguments::floats(const char* name) const {
    if (!is_array(object_.Get(name), napi_float32_array)) refuse(name, "a Float32Array");
    return floats_or_empty(name);
}
std::vector<float> Arguments::floats_or_empty(const char* name) const {
    if (has(name) && !is_array(object_.Get(name), napi_float32_array)) refuse(name, "a Float32Array");
    return copy_of<float>(object_.Get(name), napi_float32_array, elements<float>);
}
std::vector<uint8_t> Arguments::bytes(const char* name) const {
    if (!is_array(object_.Get(name), napi_uint8_array)) refuse(name, "a Uint8Array");
    return copy_of<uint8_t>(object_.Get(name), napi_uint8_array, elements<uint8_t>);
}
std::vector<uint64_t> Arguments::seeds(const char* name) const {
    if (!is_array(object_.Get(name), napi_biguint64_array)) refuse(name, "a BigUint64Array");
    return copy_of<uint64_t>(object_.Get(name), napi_biguint64_array, elements<uint64_t>);
}

std::shared_ptr<std::atomic<bool>> Arguments::cancellation() const {
    if (!has("cancellation")) return std::make_shared<std::atomic<bool>>(false);
    const Napi::Value v = object_.Get("cancellation");
    if (!v.IsObject() || !v.As<Napi::Object>().CheckTypeTag(&kCancellationTag))
        refuse("cancellation", "a cancellation");
    return Cancellation::Unwrap(v.As<Napi::Object>())->flag();
}

Napi::Value to_array(Napi::Env env, const std::vector<float>& values) {
    Napi::Float32Array out = Napi::Float32Array::New(env, values.size());
    if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(float));
    return out;
}

Napi::Value to_array(Napi::Env env, const std::vector<int32_t>& values) {
    Napi::Int32Array out = Napi::Int32Array::New(env, values.size());
    if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(int32_t));
    return out;
}

}  // namespace noema::napi
