#include "front_door.h"

#include <cstdio>
#include <cstring>

namespace noema {

namespace {

struct ShapeText {
    char text[80];
};

ShapeText shape_text(const int64_t* shape, int rank) {
    ShapeText t;
    int n = snprintf(t.text, sizeof t.text, "[");
    for (int i = 0; i < rank && n < 70; ++i)
        n += snprintf(t.text + n, sizeof t.text - n, i ? ", %lld" : "%lld", static_cast<long long>(shape[i]));
    snprintf(t.text + n, sizeof t.text - n, "]");
    return t;
}

bool same_shape(const View& v, std::initializer_list<int64_t> shape) {
    if (v.rank != static_cast<int>(shape.size())) return false;
    int i = 0;
    for (int64_t n : shape)
        if (v.shape[i++] != n) return false;
    return true;
}

bool is_reference(const Backend& b) {
    return b.isa_list == nullptr && b.device == Device::cpu;
}

}  // namespace

FrontDoor& FrontDoor::shaped(const char* name, const View& v, std::initializer_list<int64_t> shape, bool dtype_ok,
                             const char* dtypes) {
    if (failed()) return *this;
    if (!same_shape(v, shape)) {
        status_ = Status::error(Code::invalid_argument, "%s: %s has shape %s, expected %s", op_, name,
                                shape_text(v.shape, v.rank).text,
                                shape_text(shape.begin(), static_cast<int>(shape.size())).text);
    } else if (!dtype_ok) {
        status_ =
            Status::error(Code::invalid_argument, "%s: %s is %s, expected %s", op_, name, dtype_name(v.dtype), dtypes);
    } else if (!v.rows_contiguous()) {
        status_ = Status::error(Code::invalid_argument, "%s: the last axis of %s is not contiguous", op_, name);
    } else if (v.device != context_.backend->device) {
        status_ = Status::error(Code::invalid_argument, "%s: %s is not in the memory of backend '%s'", op_, name,
                                context_.backend->name);
    } else if (!v.data && v.size() > 0 && !measuring()) {
        status_ = Status::error(Code::invalid_argument, "%s: %s has no memory", op_, name);
    }
    return *this;
}

FrontDoor& FrontDoor::real(const char* name, const View& v, std::initializer_list<int64_t> shape) {
    const bool wide = v.dtype == DType::f64 && is_reference(*context_.backend);
    return shaped(name, v, shape, v.dtype == DType::f32 || wide, "f32");
}

FrontDoor& FrontDoor::wide(const char* name, const View& v, std::initializer_list<int64_t> shape) {
    return shaped(name, v, shape, v.dtype == DType::f32 || v.dtype == DType::f64, "f32 or f64");
}

FrontDoor& FrontDoor::stored(const char* name, const View& v, std::initializer_list<int64_t> shape) {
    const bool wide = v.dtype == DType::f64 && is_reference(*context_.backend);
    return shaped(name, v, shape, v.dtype == DType::f32 || v.dtype == DType::bf16 || wide, "f32 or bf16");
}

FrontDoor& FrontDoor::typed(const char* name, const View& v, DType dtype, std::initializer_list<int64_t> shape) {
    return shaped(name, v, shape, v.dtype == dtype, dtype_name(dtype));
}

FrontDoor& FrontDoor::optional_real(const char* name, const View& v, std::initializer_list<int64_t> shape) {
    return v ? real(name, v, shape) : *this;
}

FrontDoor& FrontDoor::optional_wide(const char* name, const View& v, std::initializer_list<int64_t> shape) {
    return v ? wide(name, v, shape) : *this;
}

FrontDoor& FrontDoor::optional_typed(const char* name, const View& v, DType dtype,
                                     std::initializer_list<int64_t> shape) {
    return v ? typed(name, v, dtype, shape) : *this;
}

FrontDoor& FrontDoor::that(bool holds, const char* name, const char* expectation) {
    if (!failed() && !holds) status_ = Status::error(Code::invalid_argument, "%s: %s %s", op_, name, expectation);
    return *this;
}

FrontDoor& FrontDoor::ids(const char* name, const View& v, int64_t low, int64_t high) {
    if (failed() || measuring() || v.device != Device::cpu) return *this;
    for (int64_t i = 0; i < v.size(); ++i) {
        const int64_t id = v.as<int32_t>()[i];
        if (id >= low && id < high) continue;
        status_ = Status::error(Code::invalid_argument, "%s: %s[%lld] is %lld, expected %lld to %lld", op_, name,
                                static_cast<long long>(i), static_cast<long long>(id), static_cast<long long>(low),
                                static_cast<long long>(high - 1));
        break;
    }
    return *this;
}

Status FrontDoor::declined() const {
    return Status::error(Code::unsupported, "op '%s' is not available on backend '%s'", op_, context_.backend->name);
}

Status FrontDoor::no_arena() const {
    return Status::error(Code::internal, "%s: the context has no arena for the op's workspace", op_);
}

Status FrontDoor::exhausted() const {
    return Status::error(Code::out_of_memory, "%s: the arena holds %zu bytes, %zu were needed", op_,
                         context_.arena->capacity(), context_.arena->high_water());
}

}  // namespace noema
