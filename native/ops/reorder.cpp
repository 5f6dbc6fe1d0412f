#include "front_door.h"

namespace noema {

namespace {

bool known(ChannelOrder order) {
    return order == ChannelOrder::as_is || order == ChannelOrder::even_odd || order == ChannelOrder::interleave;
}

constexpr const char* kOrders = "must be as_is, even_odd or interleave";

}  // namespace

Status reorder(const Reorder& p, Context& context) {
    const int64_t B = dim(p.x, 0), S = dim(p.x, 1), c = dim(p.x, 2);
    return FrontDoor("reorder", context)
        .wide("x", p.x, {B, S, c})
        .optional_real("first", p.first, {c})
        .wide("y", p.y, {B, S, c})
        .that(known(p.channels), "channels", kOrders)
        .that(p.x.data != p.y.data || !p.x.data, "y", "may not be x")
        .call(&OpTable::reorder, p);
}

Status reorder_backward(const ReorderBackward& p, Context& context) {
    const int64_t B = dim(p.d_y, 0), S = dim(p.d_y, 1), c = dim(p.d_y, 2);
    return FrontDoor("reorder_backward", context)
        .real("d_y", p.d_y, {B, S, c})
        .real("d_x", p.d_x, {B, S, c})
        .optional_real("d_first", p.d_first, {c})
        .that(known(p.channels), "channels", kOrders)
        .that(p.d_x.data != p.d_y.data || !p.d_x.data, "d_x", "may not be d_y")
        .call(&OpTable::reorder_backward, p);
}

}  // namespace noema
