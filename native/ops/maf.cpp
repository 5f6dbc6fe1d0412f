#include "front_door.h"

namespace noema {

namespace {

constexpr const char *kGap = "must be without gaps", *kFew = "must have at least 2 columns",
                     *kMany = "has more than 256 features per scalar";
static_assert(kMostMafFeatures == 256);

}  // namespace

Status maf_features(const MafFeatures& p, Context& context) {
    const int64_t R = dim(p.x, 0), c = dim(p.x, 1), E = dim(p.weight, 1);
    return FrontDoor("maf_features", context)
        .that(c >= 2, "x", kFew)
        .real("x", p.x, {R, c})
        .real("weight", p.weight, {c - 1, E, 3})
        .real("bias", p.bias, {c - 1, E})
        .real("y", p.y, {R, (c - 1) * E})
        .that(E <= kMostMafFeatures, "weight", kMany)
        .that(p.weight.contiguous(), "weight", kGap)
        .that(p.bias.contiguous(), "bias", kGap)
        .call(&OpTable::maf_features, p);
}

Status maf_features_backward(const MafFeaturesBackward& p, Context& context) {
    const int64_t R = dim(p.x, 0), c = dim(p.x, 1), E = dim(p.weight, 1);
    return FrontDoor("maf_features_backward", context)
        .that(c >= 2, "x", kFew)
        .real("x", p.x, {R, c})
        .real("weight", p.weight, {c - 1, E, 3})
        .real("bias", p.bias, {c - 1, E})
        .real("d_y", p.d_y, {R, (c - 1) * E})
        .real("d_x", p.d_x, {R, c})
        .real("d_weight", p.d_weight, {c - 1, E, 3})
        .real("d_bias", p.d_bias, {c - 1, E})
        .that(E <= kMostMafFeatures, "weight", kMany)
        .that(p.weight.contiguous(), "weight", kGap)
        .that(p.bias.contiguous(), "bias", kGap)
        .that(p.d_weight.contiguous(), "d_weight", kGap)
        .that(p.d_bias.contiguous(), "d_bias", kGap)
        .call(&OpTable::maf_features_backward, p);
}

}  // namespace noema
