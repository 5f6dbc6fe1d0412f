#include "front_door.h"

namespace noema {

Status rms_norm(const RmsNorm& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1);
    return FrontDoor("rms_norm", context)
        .real("x", p.x, {R, C})
        .real("weight", p.weight, {C})
        .real("y", p.y, {R, C})
        .optional_real("inv_rms", p.inv_rms, {R})
        .that(apart_or_same(p.x, p.y), "y", "shares x's memory but not its strides")
        .that(p.epsilon > 0, "epsilon", "must be positive")
        .call(&OpTable::rms_norm, p);
}

Status rms_norm_backward(const RmsNormBackward& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1);
    return FrontDoor("rms_norm_backward", context)
        .real("x", p.x, {R, C})
        .real("weight", p.weight, {C})
        .real("inv_rms", p.inv_rms, {R})
        .real("d_y", p.d_y, {R, C})
        .real("d_x", p.d_x, {R, C})
        .optional_real("d_weight", p.d_weight, {C})
        .that(p.d_x.data != p.d_y.data || !p.d_x.data, "d_x", "may not be d_y")
        .call(&OpTable::rms_norm_backward, p);
}

}  // namespace noema
