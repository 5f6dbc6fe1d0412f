// The angles of rope, for the op and for whoever fuses it.
#pragma once

#include <cmath>

#include "device.h"

namespace noema::cuda {

struct RopeFrequencies {
    double step;  // log2 of the ratio of neighbouring frequencies

    static RopeFrequencies of(double theta, int64_t pairs) { return {-std::log2(theta) / static_cast<double>(pairs)}; }
    /// cos and sin of pair i at a position.
    __device__ __forceinline__ float2 angle(int64_t position, int i) const {
        constexpr double kInversePi = 0.31830988618379067154;
        double s, c;
        sin_cos_pi(static_cast<double>(position) * (exp2(step * i) * kInversePi), s, c);
        return make_float2(static_cast<float>(c), static_cast<float>(s));
    }
};

}  // namespace noema::cuda
