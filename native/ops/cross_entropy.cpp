#include "head_door.h"

namespace noema {

namespace {

bool names(const View& ids, int64_t id) {
    for (int64_t i = 0; i < ids.size(); ++i)
        if (ids.as<int32_t>()[i] == id) return true;
    return false;
}

}  // namespace

Status cross_entropy(const CrossEntropy& p, Context& context) {
    const int64_t R = dim(p.hidden, 0), C = dim(p.hidden, 1), V = dim(p.weight.view, 0);
    FrontDoor door("cross_entropy", context);
    check_projection(door, p.hidden, p.weight, p.bias, p.excluded_id);
    door.typed("targets", p.targets, DType::i32, {R})
        .ids("targets", p.targets, INT32_MIN, V)
        .optional_real("row_weight", p.row_weight, {R})
        .real("loss", p.loss, {R})
        .optional_real("lse", p.lse, {R})
        .optional_real("d_hidden", p.d_hidden, {R, C})
        .optional_real("d_weight", p.d_weight, {V, C})
        .optional_real("d_bias", p.d_bias, {V})
        .that(!p.d_bias || p.bias, "d_bias", "needs bias")
        .that(!p.d_hidden || !p.d_hidden.data || p.d_hidden.data != p.hidden.data, "d_hidden", "may not be hidden");
    if (!door.failed() && !door.measuring() && p.excluded_id >= 0 && p.targets.device == Device::cpu)
        door.that(!names(p.targets, p.excluded_id), "targets", "may not name the excluded id");
    return door.call(&OpTable::cross_entropy, p);
}

}  // namespace noema
