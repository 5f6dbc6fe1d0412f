// scatter: y[rows[r]] = x[r], embedding the other way round; a row that goes below 0 is left out. No two may go to one place.
// What no row goes to stays as it is: how keys and values enter a cache, each at its sequence's own position.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Scatter {
    View x;     // [R,C] f32, rows contiguous
    View rows;  // [R] i32, each below S: the front door checks them on the host
    View y;     // [S,C] f32, rows contiguous; may not share memory with x
};

}  // namespace noema
