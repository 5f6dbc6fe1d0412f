// sweep: a block per sequence.
#include "noema/ops/sweep.h"

#include "common/launch.h"
#include "common/reduce.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;

struct Move {
    const float* next;
    float *state, *change;
    int32_t* sweeps;
    int64_t next_stride, state_stride, n;
    float tolerance;
};

__global__ void __launch_bounds__(kThreads) move_sequences(Move p) {
    SHARED_ARRAY(float, scratch, kThreads / 32);
    const int64_t b = blockIdx.x;
    if (!(p.change[b] > p.tolerance)) return;
    const float* next = p.next + b * p.next_stride;
    float* state = p.state + b * p.state_stride;
    float most = 0;
    for (int64_t i = threadIdx.x; i < p.n; i += kThreads) {
        const float to = next[i], moved = fabsf(to - state[i]);
        most = moved <= most ? most : (moved == moved ? moved : INFINITY);
        state[i] = to;
    }
    most = block_reduce(most, Max{}, scratch);
    if (threadIdx.x != 0) return;
    p.change[b] = most;
    p.sweeps[b] += 1;
}

Status run(const Sweep& p, const Stream& stream, Workspace) {
    const Move m{p.next.as<float>(), p.state.as<float>(), p.change.as<float>(), p.sweeps.as<int32_t>(),
                 p.next.stride[0],   p.state.stride[0],   p.next.shape[1],      p.tolerance};
    const Grid grid{.blocks = dim3(static_cast<unsigned>(p.next.shape[0])), .threads = kThreads};
    return launch("sweep", stream, grid, move_sequences, m);
}

}  // namespace

Op<Sweep> sweep_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
