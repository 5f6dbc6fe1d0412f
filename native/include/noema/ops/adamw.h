// adamw: decoupled weight decay, bias correction, epsilon outside the root, over one flat buffer, with gradient
// clipping and an exponential moving average of the parameters folded in.
//
//   g = gradient * gradient_scale * min(1, max_norm / norm)        (norm of the scaled gradient, op global_norm)
//   m = beta1 m + (1-beta1) g;   v = beta2 v + (1-beta2) g²
//   parameter -= rate * ( m/(1-beta1^step) / (sqrt(v/(1-beta2^step)) + epsilon) + weight_decay * parameter )
//   average = ema_decay * average + (1-ema_decay) * parameter
//
// A norm that is not finite: nothing changes. `schedule` replaces rate and step where they may not be part of the call (a
// recorded step).
#pragma once

#include "noema/tensor.h"

namespace noema {

struct AdamW {
    View parameter;         // [n] f32
    View gradient;          // [n] f32
    View m;                 // [n] f32
    View v;                 // [n] f32
    View average;           // [n] f32, optional
    View norm;              // [1] f32, optional: no clipping without it
    View schedule;          // [3] f32, optional: rate, 1 / (1-beta1^step), 1 / (1-beta2^step)
    float max_norm = 0.0f;  // <= 0: no clipping
    float gradient_scale = 1.0f;
    float rate = 0.0f;
    float beta1 = 0.9f;
    float beta2 = 0.999f;
    float epsilon = 1e-8f;
    float weight_decay = 0.0f;
    float ema_decay = 0.0f;
    int64_t step = 1;  // counts from 1
};

}  // namespace noema
