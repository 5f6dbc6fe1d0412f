#include "front_door.h"

namespace noema {

Status adamw(const AdamW& p, Context& context) {
    const int64_t n = dim(p.parameter, 0);
    const auto decay = [](float beta) { return beta >= 0 && beta < 1; };
    return FrontDoor("adamw", context)
        .real("parameter", p.parameter, {n})
        .real("gradient", p.gradient, {n})
        .real("m", p.m, {n})
        .real("v", p.v, {n})
        .optional_real("average", p.average, {n})
        .optional_real("norm", p.norm, {1})
        .optional_real("schedule", p.schedule, {3})
        .that(p.max_norm <= 0 || p.norm, "norm", "is needed for max_norm")
        .that(decay(p.beta1), "beta1", "must be in [0, 1)")
        .that(decay(p.beta2), "beta2", "must be in [0, 1)")
        .that(p.ema_decay >= 0 && p.ema_decay <= 1, "ema_decay", "must be in [0, 1]")
        .that(p.epsilon > 0, "epsilon", "must be positive")
        .that(p.step >= 1 || p.schedule, "step", "counts from 1")
        .call(&OpTable::adamw, p);
}

}  // namespace noema
