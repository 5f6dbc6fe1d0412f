// A stable sort of row numbers by small keys, on the device and without atomics: a radix sort of one to a few digits.
#pragma once

#include "noema/arena.h"
#include "noema/status.h"
#include "noema/stream.h"

namespace noema::cuda {

struct SortedRows {
    const int32_t* keys;  // [n] ascending
    const int32_t* rows;  // [n] where they were; ascending within a key
};

/// keys [n], each in [0, limit).
size_t sort_rows_workspace(int64_t n);
Status sort_rows(const int32_t* keys, int64_t n, int64_t limit, const Stream& stream, Workspace& workspace,
                 SortedRows& out);

}  // namespace noema::cuda
