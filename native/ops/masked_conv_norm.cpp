#include <cmath>

#include "front_door.h"

namespace noema {

namespace {

// All positions, or those of `rows`.
void check_values(FrontDoor& door, const MaskedConvNorm& p) {
    const int64_t B = dim(p.masked, 0), T = dim(p.masked, 1), R = dim(p.rows, 0), K = dim(p.p, p.rows ? 1 : 2);
    door.that(!p.rows || p.p, "rows", "needs p").that(!p.lse || p.rows, "lse", "needs rows");
    if (!p.rows) {
        door.optional_real("p", p.p, {B, T, K}).optional_real("p_conv", p.p_conv, {B, T, K});
        return;
    }
    door.typed("rows", p.rows, DType::i32, {R})
        .ids("rows", p.rows, 0, B * T)
        .optional_real("lse", p.lse, {R})
        .optional_real("p", p.p, {R, K})
        .optional_real("p_conv", p.p_conv, {R, K});
}

}  // namespace

Status masked_conv_norm(const MaskedConvNorm& p, Context& context) {
    const int64_t B = dim(p.masked, 0), T = dim(p.masked, 1);
    FrontDoor door("masked_conv_norm", context);
    door.typed("masked", p.masked, DType::u8, {B, T});
    check_values(door, p);
    door.that(!p.p == !p.p_conv, "p_conv", "must be given exactly when p is")
        .that(apart_or_same(p.p, p.p_conv), "p_conv", "may be p itself, not another arrangement of its memory")
        .optional_real("count", p.count, {B, T})
        .real("s", p.s, {B, T})
        .that(!p.normaliser || p.p, "normaliser", "needs p")
        .optional_real("normaliser", p.normaliser, {p.scope == ConvScope::batch ? 1 : B})
        .that(p.kernel > 0 && p.kernel % 2 == 1, "kernel", "must be odd and positive")
        .that(std::isfinite(p.multiplier) && p.multiplier >= 0, "multiplier", "must be finite and not negative");
    return door.call(&OpTable::masked_conv_norm, p);
}

}  // namespace noema
