#include "front_door.h"

namespace noema {

Status rope(const Rope& p, Context& context) {
    const int64_t B = dim(p.x, 0), T = dim(p.x, 1), H = dim(p.x, 2), D = dim(p.x, 3);
    return FrontDoor("rope", context)
        .real("x", p.x, {B, T, H, D})
        .real("y", p.y, {B, T, H, D})
        .optional_typed("positions", p.positions, DType::i32, {B, T})
        .that(D % 2 == 0, "x", "must have an even last axis, channels are turned in pairs")
        .that(p.theta > 0, "theta", "must be positive")
        .that(apart_or_same(p.x, p.y), "y", "shares x's memory but not its strides")
        .call(&OpTable::rope, p);
}

}  // namespace noema
