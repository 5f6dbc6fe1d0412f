#include "tensors.h"

#include <cmath>

namespace noema::napi {

namespace {

constexpr const char* kDTypes[] = {"f32", "bf16", "f16", nullptr};
constexpr DType kDTypeOf[] = {DType::f32, DType::bf16, DType::f16};
constexpr int64_t kManyBytes = int64_t{1} << 53;

std::vector<int64_t> read_shape(const Arguments& a) {
    const Napi::Value v = a.value("shape");
    if (!v.IsArray() || v.As<Napi::Array>().Length() > kMaxRank) a.refuse("shape", "an array of at most 4 sizes");
    const Napi::Array array = v.As<Napi::Array>();
    std::vector<int64_t> shape;
    for (uint32_t i = 0; i < array.Length(); ++i) {
        const Napi::Value size = array.Get(i);
        const double d = size.IsNumber() ? size.As<Napi::Number>().DoubleValue() : -1;
        if (!(d >= 0 && d <= 4294967296.0 && d == std::floor(d))) a.refuse("shape", "whole sizes from 0 to 2^32");
        shape.push_back(static_cast<int64_t>(d));
    }
    return shape;
}

void read_tensor(const Arguments& a, Tensors& out) {
    TensorSource source;
    source.name = a.text("name");
    source.dtype = kDTypeOf[a.choice("dtype", kDTypes)];
    source.shape = read_shape(a);
    if (!a.has("data")) {
        source.path = a.text("path");
        source.offset = static_cast<uint64_t>(a.integer("offset", 0, kManyBytes));
    } else {
        out.copies.push_back(a.floats("data"));
        source.data = out.copies.back().data();  // a moved vector keeps its memory
        double size = 1;  // four sizes of 2^32 overflow integers; sizes that can be equal are exact
        for (const int64_t n : source.shape) size *= static_cast<double>(n);
        if (source.dtype != DType::f32 || size != static_cast<double>(out.copies.back().size()))
            a.refuse("data", "f32 values, as many as the shape has");
    }
    out.sources.push_back(std::move(source));
}

}  // namespace

std::shared_ptr<Tensors> read_tensors(const Napi::Value& list, const char* function) {
    if (!list.IsArray())
        throw_error(list.Env(), Status::error(Code::invalid_argument, "%s: tensors must be an array", function));
    auto tensors = std::make_shared<Tensors>();
    const Napi::Array array = list.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); ++i) {
        if (!array.Get(i).IsObject())
            throw_error(list.Env(),
                        Status::error(Code::invalid_argument, "%s: tensors[%u] is not an object", function, i));
        read_tensor(Arguments(array.Get(i).As<Napi::Object>(), function), *tensors);
    }
    return tensors;
}

}  // namespace noema::napi
