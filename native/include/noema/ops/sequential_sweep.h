// sequential_sweep: the steps of sequential_inverse for all positions at once, given what each of them sees before itself: what sweeps
// repeat until they change nothing. Every sum is made in sequential_inverse's order, so what they come to rest at is to the bit what it
// finds, whichever way positions are cut into modules.
#pragma once

#include "noema/ops/sequential_inverse.h"

namespace noema {

struct SequentialSweep {
    /// Its positions are these; `start` is not read. Caches are written at flow.position and behind, all before any is read.
    SequentialInverse flow;
    View before;           // [B,N,c] f32, contiguous: h one position late, as the body reads it
    bool forward = false;  // u from h; without flow.fixed; the grid is u's
};

}  // namespace noema
