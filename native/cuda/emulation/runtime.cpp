#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "memory.h"

namespace noema::cuda::emulation {

/// What a captured stream was told.
struct EmulatedGraph {
    std::vector<std::function<cudaError_t()>> work;
};

struct EmulatedStream {
    EmulatedGraph* capturing = nullptr;
};

namespace {

cudaError_t last_error = cudaSuccess;
bool lost = false;

cudaError_t noted(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

long setting(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtol(text, nullptr, 10) : otherwise;
}

/// Does it, or keeps it for the graph.
cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work) {
    if (stream && stream->capturing) {
        stream->capturing->work.push_back(std::move(work));
        return cudaSuccess;
    }
    return noted(work());
}

bool lost_at_this_launch() {
    static long left = setting("NOEMA_EMULATED_LOSS", -1);
    if (left > 0 && --left == 0) lost = true;
    return lost;
}

size_t volume(const dim3& d) {
    return size_t{d.x} * d.y * d.z;
}

}  // namespace

cudaError_t launch_kernel(const cudaLaunchConfig_t& config, const char* name, std::function<void()> body) {
    const size_t threads = volume(config.blockDim);
    if (volume(config.gridDim) == 0 || threads == 0 || threads > 1024 || config.gridDim.y > 65535 ||
        config.gridDim.z > 65535 || config.gridDim.x > 0x7FFFFFFFu || config.dynamicSmemBytes > kMostSharedBytes)
        return noted(cudaErrorInvalidValue);
    bool cooperative = false;
    for (unsigned i = 0; i < config.numAttrs; ++i)
        cooperative |= config.attrs[i].id == cudaLaunchAttributeCooperative && config.attrs[i].val.cooperative;
    const Grid grid{config.gridDim, config.blockDim, config.dynamicSmemBytes, cooperative, name ? name : "a kernel"};
    return submit(config.stream, [grid, body = std::move(body)] {
        if (lost_at_this_launch()) return cudaErrorLaunchFailure;
        const DeviceAtWork at_work;
        return run_grid(grid, body) ? cudaSuccess : cudaErrorLaunchFailure;
    });
}

}  // namespace noema::cuda::emulation

using namespace noema::cuda::emulation;

cudaError_t cudaGetDeviceCount(int* count) {
    *count = static_cast<int>(setting("NOEMA_EMULATED_DEVICES", 1));
    return *count ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
    return noted(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    std::snprintf(properties->name, sizeof properties->name, "emulated device");
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = static_cast<int>(setting("NOEMA_EMULATED_MULTIPROCESSORS", 4));
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = static_cast<int>(setting("NOEMA_EMULATED_CAPABILITY", 90)) / 10;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = static_cast<int>(setting("NOEMA_EMULATED_CAPABILITY", 90)) % 10;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(kMostSharedBytes); break;
    }
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = static_cast<int>(setting("NOEMA_EMULATED_DRIVER", 13000));
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *free = device_memory_free();
    *total = device_memory_total();
    return cudaSuccess;
}
cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    if (!lost) last_error = cudaSuccess;
    return error;
}
const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
        default: return "cudaErrorUnknown";
    }
}
const char* cudaGetErrorString(cudaError_t error) {
    if (error == cudaErrorLaunchFailure) return lost ? "the emulated device was lost" : last_report();
    return cudaGetErrorName(error);
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
    *memory = lost ? nullptr : allocate_device_memory(bytes);
    return noted(*memory ? cudaSuccess : lost ? cudaErrorLaunchFailure : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* memory) {
    return !memory || free_device_memory(memory) ? cudaSuccess : noted(cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
    *memory = std::malloc(bytes);
    return noted(*memory ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* memory) {
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const bool reads = kind != cudaMemcpyHostToDevice, writes = kind != cudaMemcpyDeviceToHost;
    if (bytes && (is_device_memory(from, bytes) != reads || is_device_memory(to, bytes) != writes))
        return noted(cudaErrorInvalidValue);
    return submit(stream, [=] {
        if (lost) return cudaErrorLaunchFailure;
        const DeviceAtWork at_work;
        std::memmove(to, from, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
    if (bytes && !is_device_memory(memory, bytes)) return noted(cudaErrorInvalidValue);
    return submit(stream, [=] {
        if (lost) return cudaErrorLaunchFailure;
        const DeviceAtWork at_work;
        std::memset(memory, value, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    *stream = new EmulatedStream;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream && stream->capturing) return noted(cudaErrorStreamCaptureInvalidated);
    return lost ? cudaErrorLaunchFailure : cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream->capturing = new EmulatedGraph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = stream->capturing;
    stream->capturing = nullptr;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new EmulatedGraph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    const DeviceAtWork at_work;  // once for all of it: opening memory costs more than a small kernel
    for (const auto& work : executable->work)
        if (const cudaError_t error = submit(stream, work); error != cudaSuccess) return error;
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

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
    return cudaStreamCreateWithFlags(event, cudaStreamNonBlocking);
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream) {
    return cudaStreamSynchronize(stream);  // not while it is captured
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return cudaStreamSynchronize(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return cudaStreamDestroy(event);
}
