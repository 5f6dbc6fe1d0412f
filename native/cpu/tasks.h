// How element-wise ops cut a matrix into tasks: by shape only, so that results do not depend on the thread count. And what a
// worker has for itself.
#pragma once

#include <algorithm>

#include "noema/arena.h"
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

/// A worker's memory is named once, in Scratch::lay_out(shape, take): the same lines measure it and cut it.
template <class Scratch, class Shape>
size_t scratch_bytes(const Shape& shape) {
    size_t bytes = 0;
    Scratch().lay_out(shape, [&]<class T>(T*&, int64_t n) { bytes += workspace_bytes<T>(n); });
    return bytes;
}
template <class Scratch, class Shape>
Scratch cut_scratch(const Shape& shape, Workspace memory) {
    Scratch scratch;
    scratch.lay_out(shape, [&]<class T>(T*& part, int64_t n) { part = memory.take<T>(n); });
    return scratch;
}

}  // namespace noema::cpu
