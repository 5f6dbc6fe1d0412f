// The emulation's captured streams and graphs.
#include <utility>
#include <vector>

#include "cuda/small_device.h"
#include "doctest/doctest.h"

using namespace noema;
using namespace noema::cuda;

namespace {

void doubles(float* x) {
    x[threadIdx.x] *= 2;
}

}  // namespace

TEST_CASE("emulation: a captured stream does its work when the graph is launched, each time") {
    Device device;
    Array<float> x(std::vector<float>(32, 1.0f));
    cudaStreamBeginCapture(device.queue.stream, cudaStreamCaptureModeThreadLocal);
    REQUIRE(launch("doubles", device.stream, {.blocks = dim3(1), .threads = 32}, doubles, x.data).ok());
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(device.queue.stream, &graph);
    CHECK(x.values()[0] == 1);
    cudaGraphExec_t executable = nullptr;
    cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    for (int i = 0; i < 3; ++i) cudaGraphLaunch(executable, device.queue.stream);
    cudaGraphExecDestroy(executable);  // the launches keep what they need
    cudaStreamSynchronize(device.queue.stream);
    CHECK(x.values()[31] == 8);
}

namespace {

/// Counts a round and goes on until there were `most`, or the host's word says stop.
void counts(int* rounds, const volatile int* stop, int most, cudaGraphConditionalHandle handle) {
    if (threadIdx.x != 0) return;
    const int round = *rounds + 1;
    *rounds = round;
    cudaGraphSetConditional(handle, round < most && *stop == 0);
}

/// x doubled, then as long as counts() says, then once more.
struct Looped {
    Device device;
    Array<float> x{std::vector<float>(32, 1.0f)};
    Array<int> rounds{std::vector<int>(1)};
    int stop = 0;
    cudaGraphExec_t executable = nullptr;

    /// What the end of the capture says.
    cudaError_t record(int most, unsigned at_launch, bool goes_on_behind_the_node) {
        cudaStream_t stream = device.queue.stream;
        cudaGraph_t graph = nullptr;
        const cudaGraphNode_t* behind = nullptr;
        size_t count = 0;
        cudaStreamCaptureStatus status;
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        REQUIRE(double_x().ok());
        REQUIRE(cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph, &behind, nullptr, &count) == cudaSuccess);
        cudaGraphConditionalHandle handle;
        cudaGraphConditionalHandleCreate(&handle, graph, at_launch, cudaGraphCondAssignDefault);
        cudaGraphNodeParams parameters = {};
        parameters.type = cudaGraphNodeTypeConditional;
        parameters.conditional.handle = handle;
        parameters.conditional.type = cudaGraphCondTypeWhile;
        parameters.conditional.size = 1;
        cudaGraphNode_t node = nullptr;
        CHECK(cudaGraphAddNode(&node, graph, nullptr, nullptr, 0, &parameters) == cudaErrorInvalidValue);
        REQUIRE(cudaGraphAddNode(&node, graph, behind, nullptr, count, &parameters) == cudaSuccess);
        if (goes_on_behind_the_node)
            cudaStreamUpdateCaptureDependencies(stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies);
        record_body(parameters.conditional.phGraph_out[0], most, handle);
        REQUIRE(double_x().ok());
        const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
        if (ended == cudaSuccess) cudaGraphInstantiate(&executable, graph, 0);
        cudaGraphDestroy(graph);
        return ended;
    }
    ~Looped() { cudaGraphExecDestroy(executable); }

 private:
    Status double_x() { return launch("doubles", device.stream, {.blocks = dim3(1), .threads = 32}, doubles, x.data); }
    void record_body(cudaGraph_t body, int most, cudaGraphConditionalHandle handle) {
        cudaStream_t aside = nullptr;
        cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking);
        std::swap(aside, device.queue.stream);
        cudaStreamBeginCaptureToGraph(device.queue.stream, body, nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal);
        REQUIRE(double_x().ok());
        REQUIRE(launch("counts", device.stream, {.blocks = dim3(1), .threads = 32}, counts, rounds.data, &stop, most,
                       handle)
                    .ok());
        cudaGraph_t same = nullptr;
        CHECK(cudaStreamEndCapture(device.queue.stream, &same) == cudaSuccess);
        CHECK(same == body);
        std::swap(aside, device.queue.stream);
        cudaStreamDestroy(aside);
    }
};

}  // namespace

TEST_CASE("emulation: a while node does its body as long as a kernel in it says so, in every launch anew") {
    Looped loop;
    REQUIRE(loop.record(5, 1, true) == cudaSuccess);
    CHECK(loop.x.values()[0] == 1);
    cudaGraphLaunch(loop.executable, loop.device.queue.stream);
    CHECK(cudaStreamSynchronize(loop.device.queue.stream) == cudaSuccess);
    CHECK(loop.rounds.values()[0] == 5);
    CHECK(loop.x.values()[31] == 128);
    cudaGraphLaunch(loop.executable, loop.device.queue.stream);  // counts on from 5: one round
    CHECK(cudaStreamSynchronize(loop.device.queue.stream) == cudaSuccess);
    CHECK(loop.rounds.values()[0] == 6);
    CHECK(loop.x.values()[31] == 1024);

    Looped never;
    REQUIRE(never.record(5, 0, true) == cudaSuccess);
    cudaGraphLaunch(never.executable, never.device.queue.stream);
    CHECK(cudaStreamSynchronize(never.device.queue.stream) == cudaSuccess);
    CHECK(never.rounds.values()[0] == 0);
    CHECK(never.x.values()[0] == 4);
}

TEST_CASE("emulation: a launched graph is under way until somebody waits, round by round") {
    Looped loop;
    REQUIRE(loop.record(1000, 1, true) == cudaSuccess);
    cudaStream_t stream = loop.device.queue.stream;
    cudaGraphLaunch(loop.executable, stream);
    CHECK(loop.rounds.values()[0] == 0);
    for (int round = 1; round <= 3; ++round) {
        CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
        CHECK(loop.rounds.values()[0] == round);
    }
    loop.stop = 1;
    CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
    CHECK(cudaStreamQuery(stream) == cudaSuccess);
    CHECK(loop.rounds.values()[0] == 4);
    CHECK(loop.x.values()[0] == 64);
}

TEST_CASE(
    "emulation: work that does not wait for the node before it ends a capture with an error, and so does waiting") {
    Looped loop;
    CHECK(loop.record(5, 1, false) == cudaErrorStreamCaptureUnjoined);
    cudaStream_t stream = loop.device.queue.stream;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamQuery(stream) == cudaErrorStreamCaptureInvalidated);
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream, &graph);
    cudaGraphDestroy(graph);
}
