#include "front_door.h"

namespace noema {

namespace {

bool holds_components(const View& parameters) {
    const int64_t n = dim(parameters, 2);
    return n > 0 && n % 3 == 0;
}
constexpr const char* kComponents = "must hold 3 K numbers per scalar, K of at least 1";

}  // namespace

Status mixture_cdf(const MixtureCdf& p, Context& context) {
    const int64_t R = dim(p.h, 0), c = dim(p.h, 1);
    return FrontDoor("mixture_cdf", context)
        .wide("h", p.h, {R, c})
        .real("parameters", p.parameters, {R, c, dim(p.parameters, 2)})
        .that(holds_components(p.parameters), "parameters", kComponents)
        .optional_wide("u", p.u, {R, c})
        .that(same_type(p.h, p.u), "u", "must have h's type")
        .that(is_grid(p.grid), "grid", kGridExpected)
        .optional_real("log_density", p.log_density, {R})
        .optional_real("log_det", p.log_det, {R})
        .call(&OpTable::mixture_cdf, p);
}

Status mixture_cdf_backward(const MixtureCdfBackward& p, Context& context) {
    const int64_t R = dim(p.h, 0), c = dim(p.h, 1), n = dim(p.parameters, 2);
    return FrontDoor("mixture_cdf_backward", context)
        .real("h", p.h, {R, c})
        .real("parameters", p.parameters, {R, c, n})
        .that(holds_components(p.parameters), "parameters", kComponents)
        .optional_real("d_u", p.d_u, {R, c})
        .optional_real("d_log_density", p.d_log_density, {R})
        .optional_real("d_log_det", p.d_log_det, {R})
        .real("d_h", p.d_h, {R, c})
        .real("d_parameters", p.d_parameters, {R, c, n})
        .that(apart_or_same(p.parameters, p.d_parameters), "d_parameters",
              "shares parameters' memory but not their strides")
        .call(&OpTable::mixture_cdf_backward, p);
}

Status mixture_cdf_inverse(const MixtureCdfInverse& p, Context& context) {
    const int64_t R = dim(p.u, 0), c = dim(p.u, 1);
    return FrontDoor("mixture_cdf_inverse", context)
        .wide("u", p.u, {R, c})
        .real("parameters", p.parameters, {R, c, dim(p.parameters, 2)})
        .that(holds_components(p.parameters), "parameters", kComponents)
        .wide("h", p.h, {R, c})
        .that(same_type(p.u, p.h), "h", "must have u's type")
        .that(is_grid(p.grid), "grid", kGridExpected)
        .that(apart_or_same(p.u, p.h), "h", "shares u's memory but not its strides")
        .optional_typed("failed", p.failed, DType::i32, {R})
        .optional_typed("evaluations", p.evaluations, DType::i32, {R})
        .call(&OpTable::mixture_cdf_inverse, p);
}

Status mixture_cdf_draw(const MixtureCdfDraw& p, Context& context) {
    const int64_t R = dim(p.normal, 0), c = dim(p.normal, 1);
    return FrontDoor("mixture_cdf_draw", context)
        .real("normal", p.normal, {R, c})
        .real("uniform", p.uniform, {R, c})
        .real("parameters", p.parameters, {R, c, dim(p.parameters, 2)})
        .that(holds_components(p.parameters), "parameters", kComponents)
        .real("h", p.h, {R, c})
        .that(apart_or_same(p.normal, p.h), "h", "shares normal's memory but not its strides")
        .call(&OpTable::mixture_cdf_draw, p);
}

}  // namespace noema
