#include "graph.h"

#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "memory.h"

namespace noema::cuda::emulation {

/// What a handle stands for.
struct Condition {
    unsigned value = 0, at_launch = 0;
    bool has_default = false;
};

/// Work, or a body to be repeated.
struct EmulatedNode {
    std::function<cudaError_t()> work;
    std::shared_ptr<Condition> condition;
    std::shared_ptr<EmulatedGraph> body;
    cudaGraph_t body_handle = nullptr;
};

struct EmulatedGraph {
    std::vector<std::shared_ptr<EmulatedNode>> nodes;
    std::vector<std::shared_ptr<Condition>> conditions;

    cudaGraphNode_t last() const { return nodes.empty() ? nullptr : nodes.back().get(); }
};

namespace {

/// A launched graph on its way: where it stands in itself and in the bodies that it is inside of.
class Launch {
 public:
    explicit Launch(const EmulatedGraph& graph) : graph_(graph) { places_.push_back({&graph_, 0}); }

    bool done() const { return places_.empty(); }

    /// One node; true where that ended a round of a body.
    bool step(cudaError_t& error) {
        Place& at = places_.back();
        if (at.next == at.graph->nodes.size()) {
            places_.pop_back();
            return !places_.empty();  // back at its while node, which looks at its condition again
        }
        EmulatedNode& node = *at.graph->nodes[at.next];
        if (!node.body) {
            ++at.next;
            error = node.work();
        } else if (node.condition->value) {
            places_.push_back({node.body.get(), 0});
        } else {
            ++at.next;
        }
        return false;
    }

    void begin() {
        for (const auto& condition : graph_.conditions)
            if (condition->has_default) condition->value = condition->at_launch;
    }

 private:
    struct Place {
        const EmulatedGraph* graph;
        size_t next;
    };
    const EmulatedGraph graph_;
    std::vector<Place> places_;
};

}  // namespace

struct EmulatedStream {
    cudaGraph_t capturing = nullptr;
    bool owns_graph = false;         // capture began with the stream, not in a graph that was there
    bool unjoined = false;           // a node was added that nothing captured later waits for
    cudaGraphNode_t tail = nullptr;  // what is captured next waits for it
    std::deque<std::unique_ptr<Launch>> launched;
    cudaError_t failed = cudaSuccess;
};

namespace {

/// As far as the next round of a while node, or to the end.
void advance(cudaStream_t stream, bool to_the_end) {
    if (stream->launched.empty()) return;
    const DeviceAtWork at_work;  // once for all of it: opening memory costs more than a small kernel
    while (!stream->launched.empty()) {
        Launch& launch = *stream->launched.front();
        cudaError_t error = cudaSuccess;
        const bool end_of_round = !launch.done() && launch.step(error);
        if (error != cudaSuccess) {
            stream->failed = error;
            stream->launched.clear();
            return;
        }
        if (launch.done()) {
            stream->launched.pop_front();
            if (!stream->launched.empty()) stream->launched.front()->begin();
        }
        if (end_of_round && !to_the_end) return;
    }
}

}  // namespace

bool is_capturing(cudaStream_t stream) {
    return stream && stream->capturing;
}

cudaError_t capture(cudaStream_t stream, std::function<cudaError_t()> work) {
    EmulatedGraph& graph = *stream->capturing;
    stream->unjoined |= stream->tail != graph.last();
    graph.nodes.push_back(std::make_shared<EmulatedNode>(EmulatedNode{.work = std::move(work)}));
    stream->tail = graph.last();
    return cudaSuccess;
}

cudaError_t finish(cudaStream_t stream) {
    if (!stream) return cudaSuccess;
    advance(stream, true);
    return std::exchange(stream->failed, cudaSuccess);
}

}  // namespace noema::cuda::emulation

using namespace noema::cuda::emulation;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    *stream = new EmulatedStream;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    finish(stream);
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (is_capturing(stream)) return cudaErrorStreamCaptureInvalidated;
    advance(stream, false);
    return stream->launched.empty() ? stream->failed : cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (stream->capturing) return cudaErrorInvalidValue;
    stream->capturing = new EmulatedGraph;
    stream->owns_graph = true;
    stream->unjoined = false;
    stream->tail = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph, const cudaGraphNode_t* dependencies,
                                          const cudaGraphEdgeData*, size_t count, cudaStreamCaptureMode) {
    if (stream->capturing || count > 1) return cudaErrorInvalidValue;
    stream->capturing = graph;
    stream->owns_graph = false;
    stream->unjoined = false;
    stream->tail = count ? dependencies[0] : nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    if (!stream->capturing) return cudaErrorInvalidValue;
    *graph = std::exchange(stream->capturing, nullptr);
    if (!stream->unjoined && stream->tail == (*graph)->last()) return cudaSuccess;
    if (stream->owns_graph) delete *graph;
    *graph = nullptr;
    return cudaErrorStreamCaptureUnjoined;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = is_capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
    *status = stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    if (id) *id = 0;
    if (graph) *graph = stream->capturing;
    if (dependencies) *dependencies = &stream->tail;
    if (edges) *edges = nullptr;
    if (count) *count = stream->tail ? 1 : 0;
    return cudaSuccess;
}
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* dependencies,
                                                const cudaGraphEdgeData*, size_t count, unsigned int flags) {
    if (!stream->capturing || count != 1 || flags != cudaStreamSetCaptureDependencies) return cudaErrorInvalidValue;
    stream->tail = dependencies[0];
    return cudaSuccess;
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* handle, cudaGraph_t graph,
                                             unsigned int value_at_launch, unsigned int flags) {
    const bool has_default = flags & cudaGraphCondAssignDefault;
    graph->conditions.push_back(std::make_shared<Condition>(Condition{0, value_at_launch, has_default}));
    *handle = reinterpret_cast<cudaGraphConditionalHandle>(graph->conditions.back().get());
    return cudaSuccess;
}
cudaError_t cudaGraphAddNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* dependencies,
                             const cudaGraphEdgeData*, size_t count, cudaGraphNodeParams* parameters) {
    cudaConditionalNodeParams& wanted = parameters->conditional;
    std::shared_ptr<Condition> condition;
    for (const auto& known : graph->conditions)
        if (reinterpret_cast<cudaGraphConditionalHandle>(known.get()) == wanted.handle) condition = known;
    // Nodes run in the order in which they were added: a node that waits for less than all before it is not emulated.
    const cudaGraphNode_t behind = count ? dependencies[0] : nullptr;
    if (parameters->type != cudaGraphNodeTypeConditional || wanted.type != cudaGraphCondTypeWhile || wanted.size != 1 ||
        !condition || count > 1 || behind != graph->last())
        return cudaErrorInvalidValue;
    auto added = std::make_shared<EmulatedNode>();
    added->condition = condition;
    added->body = std::make_shared<EmulatedGraph>();
    added->body_handle = added->body.get();
    wanted.phGraph_out = &added->body_handle;
    graph->nodes.push_back(added);
    *node = added.get();
    return cudaSuccess;
}
void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned int value) {
    reinterpret_cast<Condition*>(handle)->value = value;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new EmulatedGraph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    if (is_capturing(stream)) return cudaErrorStreamCaptureInvalidated;
    stream->launched.push_back(std::make_unique<Launch>(*executable));
    if (stream->launched.size() == 1) stream->launched.front()->begin();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}
