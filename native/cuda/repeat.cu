// Rounds of work without the host's looking: their ops are captured to the body of a while node, behind them a kernel that looks at
// what moved and says whether the node goes on. A file of its own: a driver without while nodes could not load the kernel's module.
//
// Cancelling: no graph can be stopped, and what the owner of a stream raises is memory that the device cannot see. So a word of
// page-locked memory stands between, which the kernel reads after every round and which wait() raises; it polls instead of sleeping,
// as cudaStreamSynchronize itself does. (Replays of bounded chunks would need no polling, but a wait of the host for every chunk.)
#include "common/repeat.h"

#include <atomic>
#include <thread>
#include <utility>

#include "common/launch.h"
#include "common/reduce.h"

namespace noema::cuda {

constexpr int kFirstWithWhileNodes = 12040;

bool has_while_nodes() {
    int driver = 0;
    return CUDART_VERSION >= kFirstWithWhileNodes && cudaDriverGetVersion(&driver) == cudaSuccess &&
           driver >= kFirstWithWhileNodes;
}

Status open_repeats(Queue& q) {
    if (!has_while_nodes()) return {};
    NOEMA_TRY(checked(cudaStreamCreateWithFlags(&q.repeats.body, cudaStreamNonBlocking), "opening a stream"));
    void* word = nullptr;
    NOEMA_TRY(checked(cudaMallocHost(&word, sizeof(int)), "page-locked memory"));
    q.repeats.stop = static_cast<int*>(word);
    *q.repeats.stop = 0;
    return {};
}

void close_repeats(Queue& q) {
    if (q.repeats.body) cudaStreamDestroy(q.repeats.body);
    if (q.repeats.stop) cudaFreeHost(q.repeats.stop);
    q.repeats = {};
}

Status wait(Queue& q, const Stream& stream) {
    if (q.repeats.used && stream.cancelled) {
        std::atomic_ref<int> stop(*q.repeats.stop);
        while (!stop && cudaStreamQuery(q.stream) == cudaErrorNotReady) {
            if (stream.is_cancelled()) stop = 1;
            std::this_thread::yield();
        }
    }
    NOEMA_TRY(checked(cudaStreamSynchronize(q.stream), "running the queued work"));
    if (q.repeats.stop) *q.repeats.stop = 0;
    return {};
}

#if CUDART_VERSION >= 12040

namespace {

struct Decision {
    const float* change;
    int* round;
    const volatile int* stop;  // the host's
    cudaGraphConditionalHandle handle;
    int64_t B, most;
    float tolerance;
    bool before_the_first;
};

__global__ void __launch_bounds__(32) decide(Decision p) {
    bool moves = p.before_the_first;
    for (int64_t b = threadIdx.x; b < p.B && !p.before_the_first; b += 32) moves |= p.change[b] > p.tolerance;
    const bool any = __any_sync(kAllLanes, moves);
    if (threadIdx.x != 0) return;
    const int round = p.before_the_first ? 0 : *p.round + 1;
    *p.round = round;
    cudaGraphSetConditional(p.handle, any && round < p.most && *p.stop == 0);
}

Status queue_decision(const Queue& q, const Repeat& r, bool before_the_first, const Stream& stream) {
    const Decision d{r.change.as<float>(), r.round.as<int>(), q.repeats.stop,
                     q.repeats.handle,     r.change.shape[0], r.most,
                     r.tolerance,          before_the_first};
    return launch("repeat", stream, {.blocks = dim3(1), .threads = 32}, decide, d);
}

/// The graph that a stream is captured to, and the nodes that what comes next waits for.
struct Captured {
    cudaGraph_t graph = nullptr;
    const cudaGraphNode_t* behind = nullptr;
    size_t count = 0;
};

cudaError_t look_at(cudaStream_t stream, Captured& c) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
#if CUDART_VERSION >= 13000
    return cudaStreamGetCaptureInfo(stream, &status, nullptr, &c.graph, &c.behind, nullptr, &c.count);
#else
    return cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, &c.graph, &c.behind, &c.count);
#endif
}

cudaError_t add_node(const Captured& c, cudaGraphNodeParams& parameters, cudaGraphNode_t* node) {
#if CUDART_VERSION >= 13000
    return cudaGraphAddNode(node, c.graph, c.behind, nullptr, c.count, &parameters);
#else
    return cudaGraphAddNode(node, c.graph, c.behind, c.count, &parameters);
#endif
}

cudaError_t continue_behind(cudaStream_t stream, cudaGraphNode_t node) {
#if CUDART_VERSION >= 13000
    return cudaStreamUpdateCaptureDependencies(stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies);
#else
    return cudaStreamUpdateCaptureDependencies(stream, &node, 1, cudaStreamSetCaptureDependencies);
#endif
}

/// A while node behind what q.stream was told so far. `body` is what it repeats.
Status add_while_node(Queue& q, const Repeat& r, const Stream& stream, cudaGraph_t* body) {
    Captured so_far;
    NOEMA_TRY(checked(look_at(q.stream, so_far), "looking at a recording"));
    NOEMA_TRY(checked(cudaGraphConditionalHandleCreate(&q.repeats.handle, so_far.graph, 0, cudaGraphCondAssignDefault),
                      "recording a condition"));
    NOEMA_TRY(queue_decision(q, r, true, stream));
    NOEMA_TRY(checked(look_at(q.stream, so_far), "looking at a recording"));
    cudaGraphNodeParams parameters = {};
    parameters.type = cudaGraphNodeTypeConditional;
    parameters.conditional.handle = q.repeats.handle;
    parameters.conditional.type = cudaGraphCondTypeWhile;
    parameters.conditional.size = 1;
    cudaGraphNode_t node = nullptr;
    NOEMA_TRY(checked(add_node(so_far, parameters, &node), "recording a loop"));
    *body = parameters.conditional.phGraph_out[0];
    return checked(continue_behind(q.stream, node), "recording a loop");
}

/// Ends the capture of a loop that is no part of a recording, and runs it. Its graph lives until it is through.
Status finish_alone(const Queue& q, bool complete) {
    cudaGraph_t graph = nullptr;
    NOEMA_TRY(checked(cudaStreamEndCapture(q.stream, &graph), "recording a loop"));
    cudaGraphExec_t executable = nullptr;
    Status status;
    if (complete) status = checked(cudaGraphInstantiate(&executable, graph, 0), "preparing a loop");
    cudaGraphDestroy(graph);
    if (!executable) return status;
    status = checked(cudaGraphLaunch(executable, q.stream), "running a loop");
    cudaGraphExecDestroy(executable);
    return status;
}

}  // namespace

Status begin_repeat(Queue& q, const Repeat& r, const Stream& stream) {
    if (q.repeats.open) return Status::error(Code::internal, "a repetition inside of another");
    Captured now;
    NOEMA_TRY(checked(look_at(q.stream, now), "looking at a recording"));
    q.repeats.alone = now.graph == nullptr;
    if (q.repeats.alone)
        NOEMA_TRY(checked(cudaStreamBeginCapture(q.stream, cudaStreamCaptureModeThreadLocal), "recording a loop"));
    cudaGraph_t body = nullptr;
    Status status = add_while_node(q, r, stream, &body);
    if (status.ok())
        status = checked(
            cudaStreamBeginCaptureToGraph(q.repeats.body, body, nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal),
            "recording a loop");
    if (!status.ok()) {
        if (q.repeats.alone) finish_alone(q, false);
        return status;
    }
    std::swap(q.stream, q.repeats.body);
    q.repeats.open = q.repeats.used = true;
    return {};
}

Status end_repeat(Queue& q, const Repeat& r, bool complete, const Stream& stream) {
    Status status;
    if (complete) status = queue_decision(q, r, false, stream);
    cudaGraph_t body = nullptr;
    const Status ended = checked(cudaStreamEndCapture(q.stream, &body), "recording a loop");
    std::swap(q.stream, q.repeats.body);
    q.repeats.open = false;
    if (status.ok()) status = ended;
    if (!q.repeats.alone) return status;
    const Status ran = finish_alone(q, complete && status.ok());
    return status.ok() ? ran : status;
}

#else

Status begin_repeat(Queue&, const Repeat&, const Stream&) {
    return Status::error(Code::unsupported, "this build's CUDA has no while nodes");
}
Status end_repeat(Queue&, const Repeat&, bool, const Stream&) {
    return {};
}

#endif

}  // namespace noema::cuda
