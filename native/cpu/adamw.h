// What adamw's kernel needs to know of the call's norm and schedule.
#pragma once

namespace noema::cpu {

struct AdamWFactors {
    float gradient;  // gradient_scale and clipping
    float rate;
    float unbias_m, unbias_v;  // 1 / (1 - beta^step)
};

}  // namespace noema::cpu
