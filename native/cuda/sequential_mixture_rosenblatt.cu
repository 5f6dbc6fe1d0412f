// A token's search is one block's. With many components that is long beside everything else, and it is bound by the multiprocessor's units
// for doubles, which 256 threads do not fill: then each position's search is a launch of its own, of blocks of 384 threads, which is
// as many as have registers enough.
#include "common/states.h"
#include "sequential_body.h"
#include "wide_tokens.h"

namespace noema::cuda {

namespace {

constexpr int kApartThreads = 384;

template <int threads>
__device__ __forceinline__ void search_tokens(const SequentialArguments& p, const SequentialRosenblatt& a,
                                              const SequentialRows& rows) {
    using T = Team<threads, double>;
    SHARED_ARRAY(double, scratch, T::kScratch);
    const int d = static_cast<int>(a.table.mean.d), tokens = (rows.end - rows.begin) * a.P;
    if (static_cast<int>(blockIdx.x) >= tokens) return;
    const T team(scratch);
    const int64_t list = blockIdx.x * a.length;
    Posterior<T> posterior(team, a.table, {a.log_weight + list, a.index + list, d});
    for (int token = static_cast<int>(blockIdx.x); token < tokens; token += static_cast<int>(gridDim.x)) {
        const int row = token / a.P, which = token % a.P;
        const int b = rows.sequence(rows.begin + row), n = rows.position(rows.begin + row);
        const float* logits = p.made + static_cast<int64_t>(row) * p.made_columns + which * a.table.mean.N;
        const int64_t place = p.place(b, n) + which * d;
        if (p.forward) {
            posterior.start(logits);
            pass_token(
                posterior, a.weight + list, [&](int i) { return p.h[place + i]; },
                [&](int i, double u) {
                    if (T::thread() == 0) p.u[place + i] = on_grid(u, p.grid);
                });
            __syncthreads();  // the scalars' shared memory is the next token's
            continue;
        }
        const bool fixed = p.is_fixed(b, n);
        const TokenSearch found = invert_token(
            posterior, a.weight + list, logits, [&](int i) { return p.u[place + i]; },
            [&](int i, double z) {
                z = on_grid(z, p.grid);
                if (T::thread() == 0 && !fixed) p.h[place + i] = z;
                return z;
            });
        if (T::thread() == 0 && found.failed && !fixed)
            atomicAdd(p.failed + b * p.failed_stride[0] + n * p.failed_stride[1], found.failed);
    }
}

struct RosenblattCoupling {
    using Arguments = SequentialRosenblatt;

    static __device__ __forceinline__ void run(const SequentialArguments& p, const Arguments& a,
                                               const SequentialRows& rows) {
        if (!a.apart) search_tokens<kSequentialThreads>(p, a, rows);
    }
};

__global__ void __launch_bounds__(kApartThreads, 1)
    search_rows(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialRosenblatt a,
                const __grid_constant__ SequentialRows rows) {
    search_tokens<kApartThreads>(p, a, rows);
}

Status launch_searches(const SequentialLaunch& launched, const SequentialRosenblatt& a, const SequentialRows& rows,
                       const Stream& stream) {
    const Grid grid{.blocks = dim3(static_cast<unsigned>(min(launched.blocks, (rows.end - rows.begin) * a.P))),
                    .threads = kApartThreads,
                    .shared_bytes = PosteriorMemory<double>::shared_bytes(a.table.mean.d)};
    return launch("sequential_inverse (search)", stream, grid, search_rows, launched.arguments, a, rows);
}

}  // namespace

bool searches_apart(int64_t K) {
    return K > 4096;
}

int64_t search_length(int64_t K) {
    const int64_t warps = (searches_apart(K) ? kApartThreads : kSequentialThreads) / 32;
    return warps * segment_of(K, warps);
}

Status launch_sequential(const SequentialLaunch& launched, const SequentialRosenblatt& a, const Stream& stream) {
    if (!a.apart) return launch_positions<RosenblattCoupling>(launched, a, stream);
    SequentialLaunch one = launched;
    for (int n = launched.arguments.first; n < launched.arguments.last; ++n) {
        one.arguments.first = n, one.arguments.last = n + 1;
        NOEMA_TRY(launch_positions<RosenblattCoupling>(one, a, stream));
        NOEMA_TRY(launch_searches(one, a, {n, 1, 0, launched.arguments.B}, stream));
    }
    return {};
}
Status launch_coupling(const SequentialLaunch& launched, const SequentialRosenblatt& a, const SequentialRows& rows,
                       const Stream& stream) {
    if (a.apart) return launch_searches(launched, a, rows, stream);
    return launch_rows<RosenblattCoupling>(launched, a, rows, stream);
}

}  // namespace noema::cuda
