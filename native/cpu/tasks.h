// How element-wise ops cut a matrix into tasks: by shape only, so that results do not depend on the thread count.
#pragma once

#include <algorithm>

#include "noema/stream.h"

namespace noema::cpu {

/// 64 KB of f32 per task: 2 to 10 microseconds of work against about one of dispatch.
constexpr int64_t kTaskElements = 16384;

inline int64_t ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

inline int64_t rows_per_task(int64_t C) {
    return std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, C));
}

/// Calls f(first, last) on runs of rows of an [R,C] matrix.
template <class F>
void parallel_rows(const Stream& stream, int64_t R, int64_t C, const F& f) {
    const int64_t rows = rows_per_task(C);
    parallel_for(stream, ceil_div(R, rows), [&](int64_t i, int) { f(i * rows, std::min(R, (i + 1) * rows)); });
}

}  // namespace noema::cpu
