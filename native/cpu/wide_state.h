// Elements of states, which are f32 or f64.
#pragma once

#include "noema/ops/grid.h"
#include "noema/tensor.h"

namespace noema::cpu {

inline double load_state(const View& v, int64_t row, int64_t i) {
    return v.dtype == DType::f64 ? v.at<const double>(row)[i] : static_cast<double>(v.at<const float>(row)[i]);
}

/// Writes x as the state keeps it, and returns that.
inline double store_state(const View& v, int64_t row, int64_t i, double x, double grid) {
    x = on_grid(x, grid);
    if (v.dtype == DType::f64) return v.at<double>(row)[i] = x;
    return static_cast<double>(v.at<float>(row)[i] = static_cast<float>(x));
}

}  // namespace noema::cpu
