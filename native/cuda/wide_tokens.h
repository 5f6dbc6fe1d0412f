// A token of mixture_rosenblatt in double, either way, by the threads of a block: scalar after scalar, each of which is a search of
// probit_root.h or one evaluation of the function that it searches.
#pragma once

#include "counted_components.h"

namespace noema::cuda {

/// z of scalar passed(), and whether it was found.
template <class T>
__device__ __forceinline__ bool find(Posterior<T>& posterior, double* weight, double u, double& z, int& evaluations) {
    const T& team = posterior.team();
    const Counted<T> of(posterior, weight, least_within(posterior, reach_of(u)));
    Search s(u, start_of(of, team, u), bracket_of(of, team, u));
    const bool finite = s.last_step <= FLT_MAX;  // the bracket's width
    bool done = false;
    while (!done && s.evaluations < kMostEvaluations)
        done = step(s, s.far ? evaluate_far(of, team, s.x) : evaluate(of, team, s.x));
    z = s.x;
    evaluations += s.evaluations;
    return finite && done && fabs(z) <= FLT_MAX;
}

/// What the searches of a token came to.
struct TokenSearch {
    int failed = 0, evaluations = 0;
};
/// u_at(i): scalar i of the noise. put(i, z) is called by every thread with what was found (NAN where nothing was), once all have read
/// u_at(i), and gives what is to count as found. A barrier stands at the end.
template <class T, class Noise, class Put>
__device__ __forceinline__ TokenSearch invert_token(Posterior<T>& posterior, double* weight, const float* logits,
                                                    const Noise& u_at, const Put& put) {
    TokenSearch found;
    posterior.start(logits);
    const int d = static_cast<int>(posterior.table().mean.d);
    for (int i = 0; i < d; ++i) {
        const double u = u_at(i);
        double z = NAN;
        if (posterior.broken() || !(fabs(u) <= FLT_MAX))
            ++found.failed;
        else
            found.failed += !find(posterior, weight, u, z, found.evaluations);
        __syncthreads();  // the state may lie where the noise does: all have read it
        z = put(i, z);
        if (!posterior.broken()) posterior.pass(z);
    }
    __syncthreads();  // the scalars' shared memory is the next token's
    return found;
}

/// u of scalar passed() at z. Far out it depends on u what counts in F; u moves by what cannot be seen in it, so one or two turns settle it.
template <class T>
__device__ __forceinline__ double u_of(Posterior<T>& posterior, double* weight, double z) {
    constexpr int kMostTurns = 4;
    double reach = 0, u = NAN;
    for (int turn = 0; turn < kMostTurns; ++turn) {
        const Counted<T> of(posterior, weight, least_within(posterior, reach));
        u = point_at(of, posterior.team(), z).u;
        const double next = reach_of(u);
        if (next == reach) break;
        reach = next;
    }
    return u;
}

/// The other way, of a token whose posterior has been started: put(i, u) is called by every thread.
template <class T, class State, class Put>
__device__ __forceinline__ void pass_token(Posterior<T>& posterior, double* weight, const State& z_at, const Put& put) {
    const int d = static_cast<int>(posterior.table().mean.d);
    for (int i = 0; i < d; ++i) {
        const double z = z_at(i);
        put(i, posterior.broken() ? NAN : u_of(posterior, weight, z));
        if (!posterior.broken()) posterior.pass(z);
    }
}

}  // namespace noema::cuda
