// sweep: a block per sequence.
#include "noema/ops/sweep.h"

#include "common/launch.h"
#include "common/reduce.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
struct Move {
    const T* next;
    T* state;
    float* change;
    int32_t* sweeps;
    const uint8_t* fixed;  // or null
    int64_t next_stride, state_stride, fixed_stride, n, run;
    float tolerance;
};

template <class T>
__global__ void __launch_bounds__(kThreads) move_sequences(Move<T> p) {
    SHARED_ARRAY(T, scratch, kThreads / 32);
    const int64_t b = blockIdx.x;
    if (!(p.change[b] > p.tolerance)) return;
    const T* next = p.next + b * p.next_stride;
    T* state = p.state + b * p.state_stride;
    T most = 0;
    for (int64_t i = threadIdx.x; i < p.n; i += kThreads) {
        if (p.fixed && p.fixed[b * p.fixed_stride + i / p.run]) continue;
        const T to = next[i], moved = fabs(to - state[i]);
        most = moved <= most ? most : (moved == moved ? moved : static_cast<T>(INFINITY));
        state[i] = to;
    }
    most = block_reduce(most, Max{}, scratch);
    if (threadIdx.x != 0) return;
    p.change[b] = static_cast<float>(most);
    p.sweeps[b] += 1;
}

template <class T>
Status move(const Sweep& p, const Stream& stream) {
    const int64_t n = p.next.shape[1], run = p.fixed ? n / p.fixed.shape[1] : n;
    const Move<T> m{p.next.as<T>(),
                    p.state.as<T>(),
                    p.change.as<float>(),
                    p.sweeps.as<int32_t>(),
                    p.fixed.as<uint8_t>(),
                    p.next.stride[0],
                    p.state.stride[0],
                    p.fixed.stride[0],
                    n,
                    run,
                    p.tolerance};
    const Grid grid{.blocks = dim3(static_cast<unsigned>(p.next.shape[0])), .threads = kThreads};
    return launch("sweep", stream, grid, move_sequences<T>, m);
}

Status run(const Sweep& p, const Stream& stream, Workspace) {
    return p.next.dtype == DType::f64 ? move<double>(p, stream) : move<float>(p, stream);
}

}  // namespace

Op<Sweep> sweep_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
