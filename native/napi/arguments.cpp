#include <cmath>
#include <cstring>
#include <new>

#include "addon.h"
#include "cancellation.h"

namespace noema::napi {

Arguments::Arguments(const Napi::CallbackInfo& info, const char* function) : function_(function) {
    if (info.Length() < 1 || !info[0].IsObject())
        throw_error(info.Env(), Status::error(Code::invalid_argument, "%s: expected an options object", function));
    object_ = info[0].As<Napi::Object>();
}

Arguments::Arguments(const Napi::Object& object, const char* function) : object_(object), function_(function) {}

namespace {

// Objects are not turned into text: that may throw (a detached array), run code, or join millions of numbers.
std::string text_of(const Napi::Value& v) {
    if (v.IsTypedArray()) return "a typed array of " + std::to_string(v.As<Napi::TypedArray>().ElementLength());
    if (v.IsObject() || v.IsSymbol()) return v.IsFunction() ? "a function" : v.IsSymbol() ? "a symbol" : "an object";
    return v.ToString().Utf8Value().substr(0, 60);
}

}  // namespace

void Arguments::refuse(const char* name, const std::string& expected) const {
    const std::string found = text_of(object_.Get(name));
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

std::vector<Arguments> Arguments::list(const char* name) const {
    const Napi::Value v = object_.Get(name);
    if (!v.IsArray()) refuse(name, "an array of objects");
    std::vector<Arguments> out;
    const Napi::Array array = v.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); ++i) {
        if (!array.Get(i).IsObject()) refuse(name, "an array of objects");
        out.push_back(Arguments(array.Get(i).As<Napi::Object>(), function_));
    }
    return out;
}

namespace {

bool is_array(const Napi::Value& v, napi_typedarray_type type) {
    return v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == type;
}

// Through the typed array rather than its buffer: that may be a SharedArrayBuffer. A detached array is empty.
template <class T>
std::vector<T> copy_of(const Napi::Value& v) {
    const auto array = v.As<Napi::TypedArrayOf<T>>();
    return std::vector<T>(array.Data(), array.Data() + array.ElementLength());
}

}  // namespace

template <class T>
std::vector<T> Arguments::array(const char* name, napi_typedarray_type type, const char* expected) const {
    const Napi::Value v = object_.Get(name);
    if (!is_array(v, type)) refuse(name, expected);
    try {
        return copy_of<T>(v);
    } catch (const std::bad_alloc&) {
        throw_error(object_.Env(),
                    Status::error(Code::out_of_memory, "%s: no memory for a copy of %s", function_, name));
    }
}

std::vector<int32_t> Arguments::ids(const char* name) const {
    return array<int32_t>(name, napi_int32_array, "an Int32Array");
}
std::vector<int32_t> Arguments::ids_or_empty(const char* name) const {
    return has(name) ? ids(name) : std::vector<int32_t>();
}
std::vector<float> Arguments::floats(const char* name) const {
    return array<float>(name, napi_float32_array, "a Float32Array");
}
std::vector<float> Arguments::floats_or_empty(const char* name) const {
    return has(name) ? floats(name) : std::vector<float>();
}
std::vector<double> Arguments::state(const char* name) const {
    if (is_array(object_.Get(name), napi_float32_array)) {
        const std::vector<float> narrow = floats(name);
        return {narrow.begin(), narrow.end()};
    }
    return array<double>(name, napi_float64_array, "a Float64Array or a Float32Array");
}
std::vector<uint8_t> Arguments::bytes(const char* name) const {
    return array<uint8_t>(name, napi_uint8_array, "a Uint8Array");
}
std::vector<uint64_t> Arguments::seeds(const char* name) const {
    return array<uint64_t>(name, napi_biguint64_array, "a BigUint64Array");
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

Napi::Value to_array(Napi::Env env, const std::vector<double>& values) {
    Napi::Float64Array out = Napi::Float64Array::New(env, values.size());
    if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(double));
    return out;
}

Napi::Value to_array(Napi::Env env, const std::vector<int32_t>& values) {
    Napi::Int32Array out = Napi::Int32Array::New(env, values.size());
    if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(int32_t));
    return out;
}

namespace {

template <class T>
Napi::Value array_of_arrays(Napi::Env env, const std::vector<std::vector<T>>& values) {
    Napi::Array out = Napi::Array::New(env, values.size());
    for (uint32_t i = 0; i < values.size(); ++i) out.Set(i, to_array(env, values[i]));
    return out;
}

}  // namespace

Napi::Value to_array(Napi::Env env, const std::vector<std::vector<float>>& values) {
    return array_of_arrays(env, values);
}
Napi::Value to_array(Napi::Env env, const std::vector<std::vector<double>>& values) {
    return array_of_arrays(env, values);
}
Napi::Value to_array(Napi::Env env, const std::vector<std::vector<int32_t>>& values) {
    return array_of_arrays(env, values);
}

}  // namespace noema::napi
