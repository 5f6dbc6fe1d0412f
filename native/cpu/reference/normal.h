// The normal distribution of the mixtures, plainly: logarithms of its tails by erfc and a series, its quantile by bisection.
#pragma once

#include <vector>

#include "reference.h"

namespace noema::reference {

template <class A>
A log_density_at(A x) {
    return -x * x / 2 - static_cast<A>(0.91893853320467274178);
}

/// log of the normal distribution: far out by its asymptotic series, 1 - 1/x² + 3/x⁴ - ...
template <class A>
A log_normal(A x) {
    if (x > -10)
        return x > 5 ? std::log1p(-std::erfc(x * static_cast<A>(std::sqrt(0.5))) / 2)
                     : std::log(std::erfc(-x * static_cast<A>(std::sqrt(0.5))) / 2);
    const A y = 1 / (x * x);
    A series = 0;
    for (int n = 12; n >= 1; --n) series = -y * static_cast<A>(2 * n - 1) * (1 + series);
    return log_density_at(x) - std::log(-x) + std::log1p(series);
}

/// The u <= 0 whose log_normal is y.
inline double lower_quantile(double y) {
    double low = -std::sqrt(-2 * y) - 1, high = 0;
    for (int i = 0; i < 100; ++i) {
        const double middle = low + (high - low) / 2;
        (log_normal(middle) < y ? low : high) = middle;
    }
    return low + (high - low) / 2;
}

template <class A>
A quantile(A log_lower, A log_upper) {
    if (std::isnan(log_lower) || std::isnan(log_upper)) return log_lower + log_upper;
    return static_cast<A>(log_lower <= log_upper ? lower_quantile(static_cast<double>(log_lower))
                                                 : -lower_quantile(static_cast<double>(log_upper)));
}

template <class A>
A log_sum_exp(const std::vector<A>& x) {
    A most = -std::numeric_limits<A>::infinity(), sum = 0;
    for (A e : x) most = e > most || std::isnan(e) ? e : most;
    if (!std::isfinite(most)) return most;
    for (A e : x) sum += std::exp(e - most);
    return most + std::log(sum);
}

}  // namespace noema::reference
