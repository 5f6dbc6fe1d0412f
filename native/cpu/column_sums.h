// Gradients of what all rows of a sequence, or of the whole matrix, share: rows are cut into chunks that never cross a
// sequence's end, each chunk adds up a row of its own, and those rows are added in order.
#pragma once

#include "cpu/tasks.h"
#include "noema/arena.h"

namespace noema::cpu {

/// 32 rows per chunk: the chunk's own row of sums is 1/32 of the memory read, and 512 rows feed 16 threads.
struct RowChunks {
    static constexpr int64_t kRows = 32;

    int64_t rows;
    int64_t rows_per_sequence;

    int64_t per_sequence() const { return ceil_div(std::min(rows, rows_per_sequence), kRows); }
    int64_t sequences() const { return rows ? ceil_div(rows, rows_per_sequence) : 0; }
    int64_t count() const { return sequences() * per_sequence(); }
    int64_t sequence(int64_t i) const { return i / per_sequence(); }
    int64_t first(int64_t i) const {
        return std::min(rows, sequence(i) * rows_per_sequence + i % per_sequence() * kRows);
    }
    int64_t last(int64_t i) const {
        const int64_t end = std::min(rows, sequence(i) * rows_per_sequence + rows_per_sequence);
        return std::min(end, first(i) + kRows);
    }
};

/// `to` [groups rows, `stride` apart] = (or +=) the sum of each group's n consecutive rows of `parts` [groups * n, C].
struct ColumnSums {
    const float* parts;
    int64_t groups, n, C;
    float* to;
    int64_t stride;
    bool accumulate;
};
void column_sums(const ColumnSums& s, const Stream& stream);

}  // namespace noema::cpu
