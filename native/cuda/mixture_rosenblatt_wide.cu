// mixture_rosenblatt of wide states: block by token, scalar after scalar; each is one evaluation of the inverse's function.
#include "common/states.h"
#include "cuda.h"
#include "rosenblatt.h"
#include "wide_tokens.h"

namespace noema::cuda {

namespace {

struct Forward {
    ComponentTable table;
    const double* z;
    const float* logits;
    double* u;                     // may be null
    float *log_density, *log_det;  // likewise
    TokenLists<double> lists;
    double* weight;  // [blocks, length]
    int64_t z_stride, logits_stride, u_stride, R;
    double grid;
};

template <int threads>
__global__ void __launch_bounds__(threads, 1) rosenblatt_wide_tokens(Forward p) {
    using T = Team<threads, double>;
    SHARED_ARRAY(double, scratch, T::kScratch);
    const int d = static_cast<int>(p.table.mean.d);
    const T team(scratch);
    Posterior<T> posterior(team, p.table, p.lists.mine(d));
    double* weight = p.weight + blockIdx.x * p.lists.length;
    for (int64_t r = blockIdx.x; r < p.R; r += gridDim.x) {
        const double* z = p.z + r * p.z_stride;
        double squares = 0;
        posterior.start(p.logits + r * p.logits_stride);
        const double all = posterior.broken() ? NAN : posterior.weight();
        pass_token(
            posterior, weight, [&](int i) { return z[i]; },
            [&](int i, double u) {
                squares = fma(u, u, squares);
                if (T::thread() == 0 && p.u) p.u[r * p.u_stride + i] = on_grid(u, p.grid);
            });
        const double density = posterior.broken() ? NAN : posterior.log_density(posterior.weight(), all);
        if (T::thread() == 0) {
            if (p.log_density) p.log_density[r] = static_cast<float>(density);
            if (p.log_det) p.log_det[r] = static_cast<float>(density + 0.5 * squares + d * 0.91893853320467274178);
        }
        __syncthreads();  // the scalars' shared memory is the next token's
    }
}

}  // namespace

size_t wide_bytes(const MixtureRosenblatt& p) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0];
    return TokenLists<double>::bytes(R, K) + workspace_bytes<double>(TokenBlocks::count(R, K) * TokenBlocks::length(K));
}

Status pass_wide_tokens(const MixtureRosenblatt& p, const ComponentTable& table, const Stream& stream, Workspace w) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], d = p.mean.shape[1], blocks = TokenBlocks::count(R, K);
    Forward f{.table = table,
              .z = p.z.as<double>(),
              .logits = p.logits.as<float>(),
              .u = p.u.as<double>(),
              .log_density = p.log_density.as<float>(),
              .log_det = p.log_det.as<float>(),
              .z_stride = p.z.stride[0],
              .logits_stride = p.logits.stride[0],
              .u_stride = p.u ? p.u.stride[0] : 0,
              .R = R,
              .grid = p.grid};
    f.lists.take(R, K, w);
    f.weight = w.take<double>(blocks * f.lists.length);
    return TokenBlocks::with_threads(K, [&](auto threads) {
        const Grid grid{.blocks = dim3(static_cast<unsigned>(blocks)),
                        .threads = threads.value,
                        .shared_bytes = PosteriorMemory<double>::shared_bytes(d)};
        return launch("mixture_rosenblatt", stream, grid, rosenblatt_wide_tokens<threads.value>, f);
    });
}

}  // namespace noema::cuda
