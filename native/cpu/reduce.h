// One piece of a reduction: a stretch of one row to a single value, or a block of rows to one value per column.
#pragma once

#include <cstdint>

namespace noema::cpu {

struct ReducePiece {
    const void* x;   // first element
    bool bf16;       // else f32
    int64_t stride;  // between rows, in elements
    int64_t rows;    // with columns_stay
    int64_t n;       // columns
    bool columns_stay;
    double* sums;  // [n] with columns_stay, else [1]

    template <class T>
    const T* as() const {
        return static_cast<const T*>(x);
    }
};

}  // namespace noema::cpu
