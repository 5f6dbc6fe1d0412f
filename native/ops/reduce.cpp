#include "front_door.h"

namespace noema {

Status reduce(const Reduce& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1);
    const bool selects = p.kind == ReduceKind::max || p.kind == ReduceKind::min;
    return FrontDoor("reduce", context)
        .stored("x", p.x, {R, C})
        .real("y", p.y, {p.axis == ReduceAxis::columns ? R : C})
        .that(!p.accumulate || !selects, "accumulate", "does not go with max and min")
        .call(&OpTable::reduce, p);
}

}  // namespace noema
