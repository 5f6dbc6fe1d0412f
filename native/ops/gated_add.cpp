#include "front_door.h"

namespace noema {

Status gated_add(const GatedAdd& p, Context& context) {
    const int64_t R = dim(p.x, 0), C = dim(p.x, 1);
    return FrontDoor("gated_add", context)
        .that(p.rows_per_sequence > 0, "rows_per_sequence", "must be positive")
        .real("x", p.x, {R, C})
        .real("f", p.f, {R, C})
        .real("gate", p.gate, {sequences(R, p.rows_per_sequence), C})
        .real("y", p.y, {R, C})
        .that(apart_or_same(p.x, p.y), "y", "shares x's memory but not its strides")
        .that(p.y.data != p.gate.data || !p.y.data, "y", "may not be the gate")
        .call(&OpTable::gated_add, p);
}

Status gated_add_backward(const GatedAddBackward& p, Context& context) {
    const int64_t R = dim(p.f, 0), C = dim(p.f, 1), B = sequences(R, p.rows_per_sequence);
    return FrontDoor("gated_add_backward", context)
        .that(p.rows_per_sequence > 0, "rows_per_sequence", "must be positive")
        .real("f", p.f, {R, C})
        .real("gate", p.gate, {B, C})
        .real("d_y", p.d_y, {R, C})
        .real("d_f", p.d_f, {R, C})
        .optional_real("d_gate", p.d_gate, {B, C})
        .that(apart_or_same(p.d_y, p.d_f), "d_f", "shares d_y's memory but not its strides")
        .that(p.d_gate.data != p.gate.data || !p.d_gate.data, "d_gate", "may not be the gate")
        .call(&OpTable::gated_add_backward, p);
}

}  // namespace noema
