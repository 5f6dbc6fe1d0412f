// global_norm: norm[0] = scale * sqrt(sum x²), accumulated in double over fixed chunks.
// reduce: one value per row, or per column, of a matrix. Sums accumulate in double over fixed chunks.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct GlobalNorm {
    View x;     // [n] f32
    View norm;  // [1] f32 out
    float scale = 1.0f;
};

enum class ReduceKind : uint8_t { sum, mean, max, min, sum_squares, count_non_finite };
enum class ReduceAxis : uint8_t { columns, rows };  // the axis that disappears

struct Reduce {
    View x;  // [R,C] f32 or bf16
    View
        y;  // [R] f32 when columns disappear, [C] f32 when rows do; max and min of nothing are -inf and +inf, and NaN is skipped
    ReduceKind kind = ReduceKind::sum;
    ReduceAxis axis = ReduceAxis::columns;
    bool accumulate = false;  // y += (sum, mean, sum_squares, count_non_finite only)
};

}  // namespace noema
