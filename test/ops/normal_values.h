// What test/ops/normal.cpp evaluates.
#pragma once

#include <cstdint>

namespace noema::test {

/// Of n arguments; all arrays are [n], n a multiple of 16.
struct NormalValues {
    const float *x, *lower, *upper;
    float *below, *above, *density, *log_tail, *quantile, *quantile_of_log;
    const double *wide_x, *wide_lower, *wide_upper;
    double *wide_tail, *wide_density, *wide_log_tail, *wide_quantile, *wide_quantile_of_log;
    int64_t n;
};

}  // namespace noema::test
