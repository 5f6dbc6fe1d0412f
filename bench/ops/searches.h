// What the benches of mixtures' inverses share.
#pragma once

#include "ops/bench.h"

namespace noema::bench {

constexpr double kMostEvaluations = 3.5;  // per scalar that is sought, on average

/// What the searches of a call counted, row by row.
inline double evaluations_of(const test::Tensors& t) {
    double sum = 0;
    for (const double n : t.values("evaluations")) sum += n;
    return sum;
}

}  // namespace noema::bench
