#include <cmath>

#include "head_door.h"

namespace noema {

Status sample(const Sample& p, Context& context) {
    const int64_t N = dim(p.hidden, 0), R = p.rows ? dim(p.rows, 0) : N;
    FrontDoor door("sample", context);
    check_projection(door, p.hidden, p.weight, p.bias, p.excluded_id);
    door.optional_typed("rows", p.rows, DType::i32, {R})
        .ids("rows", p.rows, 0, N)
        .typed("seeds", p.seeds, DType::i64, {R})
        .typed("positions", p.positions, DType::i32, {R})
        .optional_typed("steps", p.steps, DType::i32, {R})
        .typed("tokens", p.tokens, DType::i32, {R})
        .optional_real("logit", p.logit, {R})
        .that(p.step >= 0 && p.step <= UINT32_MAX, "step", "must be in [0, 2^32)")
        .that(std::isfinite(p.temperature) && p.temperature >= 0, "temperature", "must be finite and not negative")
        .that(p.top_k >= 0, "top_k", "must not be negative (0: all)")
        .that(p.top_p > 0 && p.top_p <= 1, "top_p", "must be in (0, 1]");
    check_outputs(door, p.out, R, allowed_tokens(p.weight, p.excluded_id));
    return door.call(&OpTable::sample, p);
}

}  // namespace noema
