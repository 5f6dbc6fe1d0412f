#include "front_door.h"

namespace noema {

Status sweep(const Sweep& p, Context& context) {
    const int64_t B = dim(p.next, 0), n = dim(p.next, 1);
    return FrontDoor("sweep", context)
        .wide("next", p.next, {B, n})
        .wide("state", p.state, {B, n})
        .that(same_type(p.next, p.state), "state", "must have next's type")
        .real("change", p.change, {B})
        .typed("sweeps", p.sweeps, DType::i32, {B})
        .optional_typed("fixed", p.fixed, DType::u8, {B, dim(p.fixed, 1)})
        .that(!p.fixed || (dim(p.fixed, 1) > 0 && n % dim(p.fixed, 1) == 0), "the length of fixed", "must divide n")
        .that(p.tolerance >= 0, "tolerance", "may not be negative")
        .that(p.next.data != p.state.data || !p.next.data, "state", "may not be next")
        .call(&OpTable::sweep, p);
}

}  // namespace noema
