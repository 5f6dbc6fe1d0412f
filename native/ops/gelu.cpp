#include "front_door.h"

namespace noema {

namespace {

bool is_gelu(Activation form) {
    return form == Activation::gelu_erf || form == Activation::gelu_tanh;
}

}  // namespace

Status gelu(const Gelu& p, Context& context) {
    const int64_t R = dim(p.x, 0), F = dim(p.x, 1);
    return FrontDoor("gelu", context)
        .real("x", p.x, {R, F})
        .real("y", p.y, {R, F})
        .that(is_gelu(p.form), "form", "must be gelu_erf or gelu_tanh")
        .that(apart_or_same(p.x, p.y), "y", "shares x's memory but not its strides")
        .call(&OpTable::gelu, p);
}

Status gelu_backward(const GeluBackward& p, Context& context) {
    const int64_t R = dim(p.x, 0), F = dim(p.x, 1);
    return FrontDoor("gelu_backward", context)
        .real("x", p.x, {R, F})
        .real("d_y", p.d_y, {R, F})
        .real("d_x", p.d_x, {R, F})
        .that(is_gelu(p.form), "form", "must be gelu_erf or gelu_tanh")
        .that(apart_or_same(p.d_y, p.d_x), "d_x", "shares d_y's memory but not its strides")
        .call(&OpTable::gelu_backward, p);
}

}  // namespace noema
