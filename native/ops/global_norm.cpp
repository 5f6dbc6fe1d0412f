#include "front_door.h"

namespace noema {

Status global_norm(const GlobalNorm& p, Context& context) {
    return FrontDoor("global_norm", context)
        .real("x", p.x, {dim(p.x, 0)})
        .real("norm", p.norm, {1})
        .call(&OpTable::global_norm, p);
}

}  // namespace noema
