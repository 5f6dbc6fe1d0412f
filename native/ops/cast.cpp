#include "front_door.h"

namespace noema {

namespace {

bool is_float(DType t) {
    return t == DType::f32 || t == DType::bf16 || t == DType::f16 || t == DType::f64;
}

}  // namespace

Status cast(const Cast& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1);
    return FrontDoor("cast", context)
        .typed("x", p.x, p.x.dtype, {R, C})
        .typed("y", p.y, p.y.dtype, {R, C})
        .that(is_float(p.x.dtype), "x", "must be f32, bf16, f16 or f64")
        .that(is_float(p.y.dtype), "y", "must be f32, bf16, f16 or f64")
        .that(p.x.data != p.y.data || !p.x.data, "y", "may not be x")
        .call(&OpTable::cast, p);
}

}  // namespace noema
