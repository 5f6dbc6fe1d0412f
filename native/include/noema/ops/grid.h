// Grids of states. What an inverse finds is off by its own rounding; on a grid that is coarser than this it is, rounded, what forward
// began with, to the bit, and so is all that depends on it.
#pragma once

#include <cmath>

namespace noema {

/// x as a multiple of `grid`, a power of two; as it is where that is 0.
inline double on_grid(double x, double grid) {
    return grid > 0 ? std::nearbyint(x / grid) * grid : x;
}

}  // namespace noema
