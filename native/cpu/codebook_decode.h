// What a call of codebook_decode_backward works with.
#pragma once

#include "cpu/component_table.h"
#include "noema/ops/codebook.h"

namespace noema::cpu {

/// Components per task; and what a row's gradient is summed over before those sums are added.
constexpr int64_t kBackwardSpan = 1024;

struct DecodeBackward {
    const CodebookDecodeBackward& p;
    ComponentTable table;
    TableSums sums;     // one per chunk of rows
    float* d_z;         // [spans,R,d]
    int64_t row_chunk;  // rows
};

}  // namespace noema::cpu
