// What Adam's kernels need to know of a call.
#pragma once

#include <cmath>
#include <cstdint>

namespace noema::cpu {

struct AdamFactors {
    float beta1, beta2, epsilon;
    float unbias_m, unbias_v;  // 1 / (1 - beta^step)
};

/// 1 / (1 - beta^step): in double, rounded once.
inline float unbias(float beta, int64_t step) {
    return static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step))));
}

/// The factors of adamw, with the call's norm and schedule.
struct AdamWFactors {
    float gradient;  // gradient_scale and clipping
    float rate;
    AdamFactors adam;
};

}  // namespace noema::cpu
