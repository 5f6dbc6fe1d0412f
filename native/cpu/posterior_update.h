// What posterior_update's kernel is given.
#pragma once

#include "cpu/adam.h"

namespace noema::cpu {

/// n elements of one sequence, at most a row of random numbers. Absent arguments are null.
struct PosteriorRun {
    float *mean, *log_variance;
    const float *d_z, *eps;
    float *mean_m, *mean_v, *log_variance_m, *log_variance_v;
    float *next_eps, *z;
    int64_t n;
    AdamFactors adam;
    float rate, kl_weight;
    bool constant_log_variance, seeded;
    uint64_t seed;
    uint32_t draw, row;
};

}  // namespace noema::cpu
