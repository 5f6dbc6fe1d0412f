#include "front_door.h"

namespace noema {

Status posterior_update(const PosteriorUpdate& p, Context& context) {
    const int64_t B = dim(p.mean, 0), n = dim(p.mean, 1);
    const auto decay = [](float beta) { return beta >= 0 && beta < 1; };
    FrontDoor door("posterior_update", context);
    door.real("mean", p.mean, {B, n}).real("log_variance", p.log_variance, {B, n});
    if (p.d_z) {
        door.real("d_z", p.d_z, {B, n}).real("eps", p.eps, {B, n});
        door.real("mean_m", p.mean_m, {B, n}).real("mean_v", p.mean_v, {B, n});
        if (!p.constant_log_variance)
            door.real("log_variance_m", p.log_variance_m, {B, n}).real("log_variance_v", p.log_variance_v, {B, n});
    }
    return door.that(p.next_eps || p.seeds, "next_eps", "must be given, or else seeds")
        .optional_real("next_eps", p.next_eps, {B, n})
        .that(!p.d_z || apart_or_same(p.eps, p.next_eps), "next_eps", "must be eps, or lie elsewhere")
        .optional_typed("seeds", p.seeds, DType::i64, {B})
        .optional_typed("active", p.active, DType::u8, {B})
        .real("z", p.z, {B, n})
        .optional_real("kl", p.kl, {B})
        .optional_real("log_ratio", p.log_ratio, {B})
        .that(p.draw >= 0 && p.draw <= UINT32_MAX, "draw", "must be in [0, 2^32)")
        .that(p.step >= 1, "step", "counts from 1")
        .that(std::isfinite(p.rate) && p.rate >= 0, "rate", "must be finite and not negative")
        .that(std::isfinite(p.kl_weight) && p.kl_weight >= 0, "kl_weight", "must be finite and not negative")
        .that(decay(p.beta1), "beta1", "must be in [0, 1)")
        .that(decay(p.beta2), "beta2", "must be in [0, 1)")
        .that(p.epsilon > 0, "epsilon", "must be positive")
        .call(&OpTable::posterior_update, p);
}

}  // namespace noema
