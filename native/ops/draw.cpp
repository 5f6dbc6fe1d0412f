#include <cmath>

#include "front_door.h"

namespace noema {

Status draw(const Draw& p, Context& context) {
    const int64_t R = dim(p.weight, 0), K = dim(p.weight, 1);
    const bool seeded = p.seeds || p.positions;
    FrontDoor door("draw", context);
    door.real("weight", p.weight, {R, K})
        .that(R == 0 || K > 0, "weight", "must have at least one candidate per row")
        .that(!p.uniforms != !seeded, "uniforms", "must be given, or else seeds and positions, not both");
    if (seeded) door.typed("seeds", p.seeds, DType::i64, {R}).typed("positions", p.positions, DType::i32, {R});
    door.that(!p.steps || seeded, "steps", "needs seeds")
        .optional_typed("steps", p.steps, DType::i32, {R})
        .optional_real("uniforms", p.uniforms, {R, K})
        .typed("index", p.index, DType::i32, {R})
        .that(p.step >= 0 && p.step <= UINT32_MAX, "step", "must be in [0, 2^32)")
        .that(std::isfinite(p.temperature) && p.temperature >= 0, "temperature", "must be finite and not negative")
        .that(std::isfinite(p.scale) && p.scale >= 0, "scale", "must be finite and not negative")
        .that(std::isfinite(p.last), "last", "must be finite (negative: none)");
    return door.call(&OpTable::draw, p);
}

}  // namespace noema
