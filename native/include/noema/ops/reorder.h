// reorder: the moves between text order and a flow's own order (checkpoints.md, "How a flow runs").
//
//   y[b, s] = P x[b, at(s)]                            at(s) = s, or S-1-s with `reverse`
//   y[b, 0] = first, y[b, s] = P x[b, at(s - 1)]       with `first`: what a flow's body reads, one position late
//
// P moves channels: `as_is`; `even_odd` puts the even-indexed ones first, then the odd-indexed (channel mix; for odd c the
// ceil(c/2) even ones come first); `interleave` undoes it. `first` is not moved: it lives in y's order.
#pragma once

#include "noema/tensor.h"

namespace noema {

enum class ChannelOrder : uint8_t { as_is, even_odd, interleave };

struct Reorder {
    View x;      // [B,S,c] f32 or f64, rows contiguous, any other strides
    View first;  // [c] f32, optional
    View y;      // [B,S,c] f32 or f64 (which may differ from x's), likewise; may not share memory with x
    ChannelOrder channels = ChannelOrder::as_is;
    bool reverse = false;
};

struct ReorderBackward {
    View d_y;  // [B,S,c]
    View d_x;  // [B,S,c] assigned, or += with accumulate_x; with `first`, x's last position in the flow's order gets 0
    View d_first;  // [c] +=, summed over b in ascending order; given exactly when forward had `first`
    ChannelOrder channels = ChannelOrder::as_is;
    bool reverse = false;
    bool accumulate_x = false;
};

}  // namespace noema
