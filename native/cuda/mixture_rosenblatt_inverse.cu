// mixture_rosenblatt_inverse: block by token, scalar after scalar; each scalar is one search of probit_root.h by the whole block.
#include "common/states.h"
#include "cuda.h"
#include "rosenblatt.h"
#include "wide_tokens.h"

namespace noema::cuda {

namespace {

struct Inverse {
    ComponentTable table;
    States u, z;
    const float* logits;
    int32_t *failed, *evaluations;
    TokenLists<double> lists;
    double* weight;  // [blocks, length] normalised
    int64_t logits_stride, R;
    double grid;
};

template <int threads>
__global__ void __launch_bounds__(threads, 1) invert_tokens(Inverse p) {
    using T = Team<threads, double>;
    SHARED_ARRAY(double, scratch, T::kScratch);
    const T team(scratch);
    Posterior<T> posterior(team, p.table, p.lists.mine(static_cast<int>(p.table.mean.d)));
    double* weight = p.weight + blockIdx.x * p.lists.length;
    for (int64_t r = blockIdx.x; r < p.R; r += gridDim.x) {
        const TokenSearch found = invert_token(
            posterior, weight, p.logits + r * p.logits_stride, [&](int i) { return p.u.at(r, i); },
            [&](int i, double z) {
                z = p.z.stored(on_grid(z, p.grid));
                if (T::thread() == 0) p.z.put(r, i, z);
                return z;
            });
        if (T::thread() != 0) continue;
        if (p.failed) p.failed[r] = found.failed;
        if (p.evaluations) p.evaluations[r] = found.evaluations;
    }
}

size_t workspace(const MixtureRosenblattInverse& p, const Stream&) {
    const int64_t R = p.u.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(K, d) + TokenLists<double>::bytes(R, K) +
           workspace_bytes<double>(TokenBlocks::count(R, K) * TokenBlocks::length(K));
}

Status run(const MixtureRosenblattInverse& p, const Stream& stream, Workspace w) {
    const int64_t R = p.u.shape[0], K = p.mean.shape[0], d = p.mean.shape[1], blocks = TokenBlocks::count(R, K);
    Inverse n{.u = States(p.u),
              .z = States(p.z),
              .logits = p.logits.as<float>(),
              .failed = p.failed.as<int32_t>(),
              .evaluations = p.evaluations.as<int32_t>(),
              .logits_stride = p.logits.stride[0],
              .R = R,
              .grid = p.grid};
    NOEMA_TRY(component_table(p.mean, p.log_sigma, stream, w, n.table));
    n.lists.take(R, K, w);
    n.weight = w.take<double>(blocks * n.lists.length);
    return TokenBlocks::with_threads(K, [&](auto threads) {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(blocks)),
                        .threads = threads.value,
                        .shared_bytes = PosteriorMemory<double>::shared_bytes(d)};
        return launch("mixture_rosenblatt_inverse", stream, grid, invert_tokens<threads.value>, n);
    });
}

}  // namespace

Op<MixtureRosenblattInverse> mixture_rosenblatt_inverse_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
