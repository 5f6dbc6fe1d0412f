// sweep: what one Jacobi sweep of a flow's inversion does to the sequences that still move (tarflowlm.md section 6.3). Where
// change[b] > tolerance as it comes in:
//
//   change[b] = max_i |next[b,i] - state[b,i]|, infinite where that is NaN;  state[b] = next[b];  sweeps[b] += 1
//
// Sequences at rest are left as they are, so a sequence's result does not depend on the others of its batch; and so is, of every
// sequence, what is fixed.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct Sweep {
    View next;    // [B,n] f32 or f64, rows contiguous
    View state;   // [B,n] in and out, of next's dtype, rows contiguous; may not share memory with next
    View change;  // [B] in and out; infinite before the first sweep
    View sweeps;  // [B] i32 in and out
    View fixed;   // [B,m] u8, optional: where it is set, that m-th of the n scalars stays. n is a multiple of m
    float tolerance = 0.0f;
};

}  // namespace noema
