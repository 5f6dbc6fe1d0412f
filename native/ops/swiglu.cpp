#include "front_door.h"

namespace noema {

Status swiglu(const Swiglu& p, Context& context) {
    const int64_t R = dim(p.gate, 0), F = dim(p.gate, 1);
    return FrontDoor("swiglu", context)
        .real("gate", p.gate, {R, F})
        .real("up", p.up, {R, F})
        .real("y", p.y, {R, F})
        .that(apart_or_same(p.gate, p.y), "y", "shares gate's memory but not its strides")
        .that(apart_or_same(p.up, p.y), "y", "shares up's memory but not its strides")
        .call(&OpTable::swiglu, p);
}

Status swiglu_backward(const SwigluBackward& p, Context& context) {
    const int64_t R = dim(p.gate, 0), F = dim(p.gate, 1);
    return FrontDoor("swiglu_backward", context)
        .real("gate", p.gate, {R, F})
        .real("up", p.up, {R, F})
        .real("d_y", p.d_y, {R, F})
        .real("d_gate", p.d_gate, {R, F})
        .real("d_up", p.d_up, {R, F})
        .that(p.d_gate.data != p.d_up.data || !p.d_up.data, "d_up", "may not be d_gate")
        .that(apart_or_same(p.d_y, p.d_gate), "d_gate", "shares d_y's memory but not its strides")
        .call(&OpTable::swiglu_backward, p);
}

}  // namespace noema
