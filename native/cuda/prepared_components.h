// The components of one scalar of mixture_cdf as the search of probit_root.h wants them, and that search: the one of the cpu backend, a
// scalar per 1 to 32 threads, which all hold the same state. A warp ends with its slowest scalar.
#pragma once

#include "probit_root.h"

namespace noema::cuda {

/// This thread's components; too many to keep are made anew each time.
template <int kKept>
class Prepared {
 public:
    __device__ __forceinline__ Prepared(const MyComponents<kKept>& of, const MyScalar& me) : of_(of) {
        top_ = of.largest_logit(me);
        double sum = 0;
        float poison = 0;
        of.each([&](int, int, float logit, float mean, float raw) {
            sum += exp(logit - top_);
            poison += 0.0f * logit + 0.0f * mean + 0.0f * raw;
        });
        sum = me.sum(sum);
        poison = me.sum(poison);
        finite = poison == poison;
        scale_ = 1.0 / sum;
        log_all = log(sum);
        if constexpr (kKept > 0)
            of.each([&](int j, int, float logit, float, float raw) { kept_[j] = make(logit, raw); });
    }
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        of_.each([&](int j, int, float logit, float mean, float raw) {
            const Made p = kKept > 0 ? kept_[kKept > 0 ? j : 0] : make(logit, raw);
            f(Component{logit - top_, p.weight, mean, 1.0 / p.inverse, p.inverse});
        });
    }

    bool finite;     // all parameters are
    double log_all;  // of the sum of the weights as log_weight has them

 private:
    /// What costs more than a register or two.
    struct Made {
        double weight, inverse;
    };
    __device__ __forceinline__ Made make(float logit, float raw) const {
        return {exp(logit - top_) * scale_, exp(-soft_clipped(static_cast<double>(raw)))};
    }
    const MyComponents<kKept>& of_;
    double top_, scale_;
    Made kept_[kKept > 0 ? kKept : 1];
};

/// What a search came to: NAN where it could not begin.
struct Root {
    double x;
    bool failed;
    int evaluations;
};
template <int kKept>
__device__ __forceinline__ Root root_of(const Prepared<kKept>& of, const MyScalar& me, double u) {
    const Bracket bracket = bracket_of(of, me, u);
    const bool finite =
        of.finite && fabs(u) <= FLT_MAX && fabs(bracket.low) <= FLT_MAX && fabs(bracket.high) <= FLT_MAX;
    Search s(u, start_of(of, me, u), bracket);
    bool active = finite;
    for (int i = 0; i < kMostEvaluations && __any_sync(kAllLanes, active); ++i) {
        Sums at = evaluate(of, me, s.x);
        if (__any_sync(kAllLanes, active && s.far)) {
            const Sums far = evaluate_far(of, me, s.x);
            if (s.far) at = far;
        }
        if (active) active = !step(s, at);
    }
    return {finite ? s.x : NAN, active || !finite || !(fabs(s.x) <= FLT_MAX), s.evaluations};
}

}  // namespace noema::cuda
