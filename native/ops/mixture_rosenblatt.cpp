#include "front_door.h"

namespace noema {

namespace {

/// What every op of the family reads: logits [R,K] and the table of components.
template <class P>
FrontDoor& mixture(FrontDoor& door, const P& p, int64_t R, int64_t d) {
    const int64_t K = dim(p.mean, 0);
    return door.real("logits", p.logits, {R, K})
        .real("mean", p.mean, {K, d})
        .real("log_sigma", p.log_sigma, {K})
        .that(K > 0 && d > 0, "mean", "must have a row and a column");
}

}  // namespace

Status mixture_rosenblatt(const MixtureRosenblatt& p, Context& context) {
    const int64_t R = dim(p.z, 0), d = dim(p.mean, 1);
    FrontDoor door("mixture_rosenblatt", context);
    return mixture(door.wide("z", p.z, {R, d}), p, R, d)
        .optional_wide("u", p.u, {R, d})
        .that(same_type(p.z, p.u), "u", "must have z's type")
        .that(is_grid(p.grid), "grid", kGridExpected)
        .optional_real("log_density", p.log_density, {R})
        .optional_real("log_det", p.log_det, {R})
        .call(&OpTable::mixture_rosenblatt, p);
}

Status mixture_rosenblatt_backward(const MixtureRosenblattBackward& p, Context& context) {
    const int64_t R = dim(p.z, 0), K = dim(p.mean, 0), d = dim(p.mean, 1);
    FrontDoor door("mixture_rosenblatt_backward", context);
    return mixture(door.real("z", p.z, {R, d}), p, R, d)
        .optional_real("d_u", p.d_u, {R, d})
        .optional_real("d_log_density", p.d_log_density, {R})
        .optional_real("d_log_det", p.d_log_det, {R})
        .real("d_z", p.d_z, {R, d})
        .real("d_logits", p.d_logits, {R, K})
        .optional_real("d_mean", p.d_mean, {K, d})
        .optional_real("d_log_sigma", p.d_log_sigma, {K})
        .that(apart_or_same(p.logits, p.d_logits), "d_logits", "shares the memory of logits but not its strides")
        .call(&OpTable::mixture_rosenblatt_backward, p);
}

Status mixture_rosenblatt_inverse(const MixtureRosenblattInverse& p, Context& context) {
    const int64_t R = dim(p.u, 0), d = dim(p.mean, 1);
    FrontDoor door("mixture_rosenblatt_inverse", context);
    return mixture(door.wide("u", p.u, {R, d}), p, R, d)
        .wide("z", p.z, {R, d})
        .that(same_type(p.u, p.z), "z", "must have u's type")
        .that(is_grid(p.grid), "grid", kGridExpected)
        .optional_typed("failed", p.failed, DType::i32, {R})
        .optional_typed("evaluations", p.evaluations, DType::i32, {R})
        .that(apart_or_same(p.u, p.z), "z", "shares the memory of u but not its strides")
        .call(&OpTable::mixture_rosenblatt_inverse, p);
}

Status mixture_rosenblatt_draw(const MixtureRosenblattDraw& p, Context& context) {
    const int64_t R = dim(p.uniform, 0), d = dim(p.mean, 1);
    FrontDoor door("mixture_rosenblatt_draw", context);
    return mixture(door.real("uniform", p.uniform, {R}).real("normal", p.normal, {R, d}), p, R, d)
        .real("z", p.z, {R, d})
        .that(apart_or_same(p.normal, p.z), "z", "shares the memory of normal but not its strides")
        .call(&OpTable::mixture_rosenblatt_draw, p);
}

}  // namespace noema
