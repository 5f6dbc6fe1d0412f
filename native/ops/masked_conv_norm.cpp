#include <cmath>

#include "front_door.h"

namespace noema {

Status masked_conv_norm(const MaskedConvNorm& p, Context& context) {
    const int64_t B = dim(p.masked, 0), T = dim(p.masked, 1), K = dim(p.p, 2);
    const bool in_place = p.p && p.p.data && p.p.data == p.p_conv.data;
    FrontDoor door("masked_conv_norm", context);
    door.typed("masked", p.masked, DType::u8, {B, T})
        .optional_real("p", p.p, {B, T, K})
        .optional_real("p_conv", p.p_conv, {B, T, K})
        .that(!p.p == !p.p_conv, "p_conv", "must be given exactly when p is")
        .that(!in_place || (p.p.stride[0] == p.p_conv.stride[0] && p.p.stride[1] == p.p_conv.stride[1]), "p_conv",
              "may be p itself, not another arrangement of its memory")
        .optional_real("count", p.count, {B, T})
        .real("s", p.s, {B, T})
        .that(!p.normaliser || p.p, "normaliser", "needs p")
        .optional_real("normaliser", p.normaliser, {p.scope == ConvScope::batch ? 1 : B})
        .that(p.kernel > 0 && p.kernel % 2 == 1, "kernel", "must be odd and positive")
        .that(std::isfinite(p.multiplier) && p.multiplier >= 0, "multiplier", "must be finite and not negative");
    return door.call(&OpTable::masked_conv_norm, p);
}

}  // namespace noema
