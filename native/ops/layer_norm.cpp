#include "front_door.h"

namespace noema {

Status layer_norm(const LayerNorm& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1), B = sequences(R, p.rows_per_sequence);
    return FrontDoor("layer_norm", context)
        .that(p.rows_per_sequence > 0, "rows_per_sequence", "must be positive")
        .real("x", p.x, {R, C})
        .optional_real("weight", p.weight, {C})
        .optional_real("bias", p.bias, {C})
        .optional_real("scale", p.scale, {B, C})
        .optional_real("shift", p.shift, {B, C})
        .real("y", p.y, {R, C})
        .optional_real("mean", p.mean, {R})
        .optional_real("inv_std", p.inv_std, {R})
        .that(p.scale.empty() == p.shift.empty(), "scale", "and shift go together")
        .that(p.mean.empty() == p.inv_std.empty(), "mean", "and inv_std go together")
        .that(apart_or_same(p.x, p.y), "y", "shares x's memory but not its strides")
        .that(p.epsilon > 0, "epsilon", "must be positive")
        .call(&OpTable::layer_norm, p);
}

Status layer_norm_backward(const LayerNormBackward& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1), B = sequences(R, p.rows_per_sequence);
    return FrontDoor("layer_norm_backward", context)
        .that(p.rows_per_sequence > 0, "rows_per_sequence", "must be positive")
        .real("x", p.x, {R, C})
        .optional_real("weight", p.weight, {C})
        .optional_real("bias", p.bias, {C})
        .optional_real("scale", p.scale, {B, C})
        .real("mean", p.mean, {R})
        .real("inv_std", p.inv_std, {R})
        .real("d_y", p.d_y, {R, C})
        .real("d_x", p.d_x, {R, C})
        .optional_real("d_weight", p.d_weight, {C})
        .optional_real("d_bias", p.d_bias, {C})
        .optional_real("d_scale", p.d_scale, {B, C})
        .optional_real("d_shift", p.d_shift, {B, C})
        .that(p.weight || !p.d_weight, "d_weight", "needs weight")
        .that(p.bias || !p.d_bias, "d_bias", "needs bias")
        .that(p.scale || !p.d_scale, "d_scale", "needs scale")
        .that(p.scale || !p.d_shift, "d_shift", "needs scale")
        .that(p.d_x.data != p.d_y.data || !p.d_x.data, "d_x", "may not be d_y")
        .call(&OpTable::layer_norm_backward, p);
}

}  // namespace noema
