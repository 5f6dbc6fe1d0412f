// mixture_cdf_inverse: a search per scalar.
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
    const Root root = root_of(of, me, p.u.at(me.row, me.i));
    if (!me.writes) return;
    p.h.put(me.row, me.i, on_grid(root.x, p.grid));
    if (p.failed) p.failed[me.index] = root.failed;
    if (p.evaluations) p.evaluations[me.index] = root.evaluations;
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
