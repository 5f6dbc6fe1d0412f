// mixture_cdf_inverse: the search of the cpu backend, a scalar per 1 to 32 threads, which all hold the same state. A warp
// ends with its slowest scalar.
#include "common/states.h"
#include "cuda.h"
#include "noema/ops/mixture_cdf.h"
#include "prepared_components.h"

namespace noema::cuda {

namespace {

struct Inverse {
    MixtureGrid of;
    States u, h;
    int32_t *failed, *evaluations;  // of every scalar; may be null
    double grid;
};

template <int kKept>
__global__ void __launch_bounds__(kMixtureThreads, 1) mixture_cdf_inverse_scalars(Inverse p) {
    const MyScalar me(p.of);
    const MyComponents<kKept> components(p.of, me);
    const Prepared<kKept> of(components, me);
    const double u = p.u.at(me.row, me.i);
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
    if (!me.writes) return;
    p.h.put(me.row, me.i, finite ? on_grid(s.x, p.grid) : NAN);
    if (p.failed) p.failed[me.index] = active || !finite || !(fabs(s.x) <= FLT_MAX);
    if (p.evaluations) p.evaluations[me.index] = s.evaluations;
}

size_t workspace(const MixtureCdfInverse& p, const Stream&) {
    const size_t one = workspace_bytes<int32_t>(p.u.size());
    return (p.failed ? one : 0) + (p.evaluations ? one : 0);
}

Status run(const MixtureCdfInverse& p, const Stream& stream, Workspace w) {
    const int64_t R = p.u.shape[0], c = p.u.shape[1];
    int32_t* failed = p.failed ? w.take<int32_t>(p.u.size()) : nullptr;
    int32_t* evaluations = p.evaluations ? w.take<int32_t>(p.u.size()) : nullptr;
    const Inverse n{mixture_grid(p.parameters), States(p.u), States(p.h), failed, evaluations, p.grid};
    NOEMA_TRY(with_kept(n.of, [&](auto kept) {
        return launch("mixture_cdf_inverse", stream, n.of.grid(), mixture_cdf_inverse_scalars<decltype(kept)::value>,
                      n);
    }));
    NOEMA_TRY(mixture_row_sums(failed, p.failed.as<int32_t>(), R, c, stream));
    return mixture_row_sums(evaluations, p.evaluations.as<int32_t>(), R, c, stream);
}

}  // namespace

Op<MixtureCdfInverse> mixture_cdf_inverse_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
