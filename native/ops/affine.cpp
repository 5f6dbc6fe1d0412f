#include "front_door.h"

namespace noema {

Status affine(const Affine& p, Context& context) {
    const int64_t R = dim(p.h, 0), c = dim(p.h, 1);
    return FrontDoor("affine", context)
        .wide("h", p.h, {R, c})
        .real("parameters", p.parameters, {R, 2 * c})
        .optional_wide("u", p.u, {R, c})
        .that(same_type(p.h, p.u), "u", "must have h's type")
        .that(is_grid(p.grid), "grid", kGridExpected)
        .optional_real("log_density", p.log_density, {R})
        .optional_real("log_det", p.log_det, {R})
        .that(apart_or_same(p.h, p.u), "u", "shares h's memory but not its strides")
        .call(&OpTable::affine, p);
}

Status affine_backward(const AffineBackward& p, Context& context) {
    const int64_t R = dim(p.h, 0), c = dim(p.h, 1);
    return FrontDoor("affine_backward", context)
        .real("h", p.h, {R, c})
        .real("parameters", p.parameters, {R, 2 * c})
        .optional_real("d_u", p.d_u, {R, c})
        .optional_real("d_log_density", p.d_log_density, {R})
        .optional_real("d_log_det", p.d_log_det, {R})
        .real("d_h", p.d_h, {R, c})
        .real("d_parameters", p.d_parameters, {R, 2 * c})
        .that(apart_or_same(p.d_u, p.d_h), "d_h", "shares d_u's memory but not its strides")
        .call(&OpTable::affine_backward, p);
}

Status affine_inverse(const AffineInverse& p, Context& context) {
    const int64_t R = dim(p.u, 0), c = dim(p.u, 1);
    return FrontDoor("affine_inverse", context)
        .wide("u", p.u, {R, c})
        .real("parameters", p.parameters, {R, 2 * c})
        .wide("h", p.h, {R, c})
        .that(same_type(p.u, p.h), "h", "must have u's type")
        .that(is_grid(p.grid), "grid", kGridExpected)
        .that(apart_or_same(p.u, p.h), "h", "shares u's memory but not its strides")
        .call(&OpTable::affine_inverse, p);
}

}  // namespace noema
