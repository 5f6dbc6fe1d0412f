#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "graph.h"
#include "memory.h"

namespace noema::cuda::emulation {

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

/// Does it once the stream's graphs are through, or keeps it for the graph.
cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work) {
    if (is_capturing(stream)) return noted(capture(stream, std::move(work)));
    if (const cudaError_t error = finish(stream); error != cudaSuccess) return noted(error);
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

/// What kernels were granted of dynamic shared memory.
class Grants {
 public:
    void set(const void* kernel, size_t bytes) {
        const std::lock_guard<std::mutex> guard(lock_);
        bytes_[kernel] = bytes;
    }
    /// 0: nothing was asked for.
    size_t of(const void* kernel) {
        const std::lock_guard<std::mutex> guard(lock_);
        const auto found = bytes_.find(kernel);
        return found == bytes_.end() ? 0 : found->second;
    }

 private:
    std::mutex lock_;
    std::map<const void*, size_t> bytes_;
};
Grants grants;

}  // namespace

cudaError_t launch_kernel(const cudaLaunchConfig_t& config, const char* name, const void* kernel,
                          std::function<void()> body) {
    const size_t threads = volume(config.blockDim);
    if (volume(config.gridDim) == 0 || threads == 0 || threads > 1024 || config.gridDim.y > 65535 ||
        config.gridDim.z > 65535 || config.gridDim.x > 0x7FFFFFFFu || config.dynamicSmemBytes > kMostSharedBytes)
        return noted(cudaErrorInvalidValue);
    if (const size_t granted = grants.of(kernel); granted && config.dynamicSmemBytes > granted)
        return noted(cudaErrorInvalidValue);
    bool cooperative = false;
    for (unsigned i = 0; i < config.numAttrs; ++i)
        cooperative |= config.attrs[i].id == cudaLaunchAttributeCooperative && config.attrs[i].val.cooperative;
    const Grid grid{config.gridDim,    config.blockDim, config.dynamicSmemBytes,
                    grants.of(kernel), cooperative,     name ? name : "a kernel"};
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
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    *attributes = {};
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
    if (value < 0 || static_cast<size_t>(value) > kMostSharedBytes) return noted(cudaErrorInvalidValue);
    grants.set(kernel, static_cast<size_t>(value));
    return cudaSuccess;
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
        case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
        case cudaErrorStreamCaptureUnjoined: return "cudaErrorStreamCaptureUnjoined";
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

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (is_capturing(stream)) return noted(cudaErrorStreamCaptureInvalidated);
    const cudaError_t error = noted(finish(stream));
    return lost ? cudaErrorLaunchFailure : error;
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
