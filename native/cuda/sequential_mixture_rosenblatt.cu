#include "common/states.h"
#include "sequential_body.h"
#include "wide_tokens.h"

namespace noema::cuda {

namespace {

/// A block per token, whatever the number of components.
struct RosenblattCoupling {
    using Arguments = SequentialRosenblatt;
    using Threads = Team<kSequentialThreads, double>;

    static __device__ __forceinline__ void run(const SequentialArguments& p, const Arguments& a, int n) {
        SHARED_ARRAY(double, scratch, Threads::kScratch);
        const int d = static_cast<int>(a.table.mean.d), tokens = p.B * a.P;
        if (static_cast<int>(blockIdx.x) >= tokens) return;
        const Threads team(scratch);
        const int64_t list = blockIdx.x * a.length;
        Posterior<Threads> posterior(team, a.table, {a.log_weight + list, a.index + list, d});
        for (int token = static_cast<int>(blockIdx.x); token < tokens; token += static_cast<int>(gridDim.x)) {
            const int b = token / a.P, which = token % a.P;
            const float* logits = p.made + static_cast<int64_t>(b) * p.made_columns + which * a.table.K();
            const int64_t place = p.place(b, n) + which * d;
            if (p.forward) {
                posterior.start(logits);
                pass_token(
                    posterior, a.weight + list, [&](int i) { return p.h[place + i]; },
                    [&](int i, double u) {
                        if (Threads::thread() == 0) p.u[place + i] = on_grid(u, p.grid);
                    });
                __syncthreads();  // the scalars' shared memory is the next token's
                continue;
            }
            const bool fixed = p.is_fixed(b, n);
            const TokenSearch found = invert_token(
                posterior, a.weight + list, logits, [&](int i) { return p.u[place + i]; },
                [&](int i, double z) {
                    z = on_grid(z, p.grid);
                    if (Threads::thread() == 0 && !fixed) p.h[place + i] = z;
                    return z;
                });
            if (Threads::thread() == 0 && found.failed && !fixed)
                atomicAdd(p.failed + b * p.failed_stride[0] + n * p.failed_stride[1], found.failed);
        }
    }
};

}  // namespace

Status launch_sequential(const SequentialLaunch& launched, const SequentialRosenblatt& a, const Stream& stream) {
    return launch_with<RosenblattCoupling>(launched, a, stream);
}

}  // namespace noema::cuda
