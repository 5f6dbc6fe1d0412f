#include "front_door.h"

namespace noema {

Status scatter(const Scatter& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1), S = dim(p.y, 0);
    FrontDoor door("scatter", context);
    door.real("x", p.x, {R, C})
        .typed("rows", p.rows, DType::i32, {R})
        .real("y", p.y, {S, C})
        .that(p.x.data != p.y.data || !p.x.data, "y", "may not be x");
    if (!door.failed()) door.ids("rows", p.rows, INT32_MIN, S);
    return door.call(&OpTable::scatter, p);
}

}  // namespace noema
