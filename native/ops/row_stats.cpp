#include "head_door.h"

namespace noema {

Status row_stats(const RowStats& p, Context& context) {
    const int64_t N = dim(p.hidden, 0), R = p.rows ? dim(p.rows, 0) : N;
    FrontDoor door("row_stats", context);
    check_projection(door, p.hidden, p.weight, p.bias, p.excluded_id);
    door.optional_typed("rows", p.rows, DType::i32, {R}).ids("rows", p.rows, 0, N);
    check_outputs(door, p.out, R, allowed_tokens(p.weight, p.excluded_id));
    return door.call(&OpTable::row_stats, p);
}

}  // namespace noema
