// One scalar of a token's mixture as a function of its own, which wide forward and inverse share: the components that count in F of the
// next scalar, as probit_root.h wants them.
#pragma once

#include "posterior.h"
#include "probit_root.h"

namespace noema::cuda {

/// Those of log weights from `least` on. weight: room for every component of the block's list.
template <class T>
class Counted {
 public:
    __device__ __forceinline__ Counted(const Posterior<T>& posterior, double* weight, double least)
        : posterior_(posterior), weight_(weight), least_(least) {
        double sum = 0;
        posterior.each([&](int, int, double x) { sum += x >= least ? exp(x) : 0.0; });
        sum = posterior.team().sum(sum);
        log_all = log(sum);
        const double scale = 1.0 / sum;
        posterior.each([&](int place, int, double x) { weight[place] = exp(x) * scale; });
    }
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        const ComponentTable& t = posterior_.table();
        const int i = posterior_.passed();
        posterior_.each([&](int place, int k, double x) {
            if (!(x >= least_)) return;
            const double weight = weight_[place], inverse = t.inv_sigma[k];  // the thread's own of before
            f(Component{x, weight, t.mean.at(i, k), 1.0 / inverse, inverse});
        });
    }

    double log_all;

 private:
    const Posterior<T>& posterior_;
    double* weight_;
    double least_;
};

/// |u| up to the next whole number: what counts in F there. In steps, so that forward, which must guess it, and inverse see the same.
__device__ __forceinline__ double reach_of(double u) {
    return fabs(u) > kPrunedWithin ? ceil(fabs(u)) : 0;
}

/// The least log weight that counts within a reach; those components are followed from now on.
template <class T>
__device__ __forceinline__ double least_within(Posterior<T>& posterior, double reach) {
    return reach > 0 ? posterior.look_far(log(tail_factor(reach)) - 0.5 * reach * reach) : -kPrunedBelow;
}

}  // namespace noema::cuda
