// The backend table of each device, and the one symbol that the module exports.
#include "noema/backend.h"

#include <cstdio>

#include "common/cublaslt.h"
#include "common/error.h"
#include "common/queue.h"
#include "common/repeat.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kMostDevices = 16;
constexpr int kLeastCapability = 80;  // cp.async and bf16 tensor cores

/// A table's functions know their device by their type: they take no argument that could tell it.
template <int kDevice>
struct Calls {
    static Status select() { return checked(cudaSetDevice(kDevice), "choosing the device"); }

    static void* allocate(size_t bytes) {
        void* memory = nullptr;
        if (!select().ok() || !checked(cudaMalloc(&memory, bytes), "memory").ok()) return nullptr;
        return memory;
    }
    static void release(void* memory) {
        if (memory && select().ok()) cudaFree(memory);
    }
    static void* allocate_host(size_t bytes) {
        void* memory = nullptr;
        if (!select().ok() || !checked(cudaMallocHost(&memory, bytes), "memory").ok()) return nullptr;
        return memory;
    }
    static void release_host(void* memory) {
        if (memory && select().ok()) cudaFreeHost(memory);
    }

    static const char* describe() {
        static char text[320];
        cudaDeviceProp properties = {};
        size_t free = 0, total = 0;
        int driver = 0, major = 0, minor = 0;
        if (!select().ok() || cudaGetDeviceProperties(&properties, kDevice) != cudaSuccess ||
            cudaMemGetInfo(&free, &total) != cudaSuccess || cudaDriverGetVersion(&driver) != cudaSuccess ||
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, kDevice) != cudaSuccess ||
            cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, kDevice) != cudaSuccess)
            return "a device that does not describe itself";
        snprintf(text, sizeof text, "%s, compute capability %d.%d, %.0f GiB, driver for CUDA %d.%d", properties.name,
                 major, minor, static_cast<double>(total) / (size_t{1} << 30), driver / 1000, driver % 1000 / 10);
        return text;
    }

    static void discard(Queue* queue) {
        for (const cudaEvent_t mark : queue->marks)
            if (mark) cudaEventDestroy(mark);
        if (queue->stream) cudaStreamDestroy(queue->stream);
        close_repeats(*queue);
        delete queue;
    }
    static Status open_stream(Stream& out) {
        NOEMA_TRY(select());
        auto* queue = new Queue;
        queue->device.index = kDevice;
        int major = 0, minor = 0;
        const auto ask = [](int* value, cudaDeviceAttr attribute) {
            return checked(cudaDeviceGetAttribute(value, attribute, kDevice), "asking for the device's properties");
        };
        Status status = ask(&major, cudaDevAttrComputeCapabilityMajor);
        if (status.ok()) status = ask(&minor, cudaDevAttrComputeCapabilityMinor);
        if (status.ok()) status = ask(&queue->device.multiprocessors, cudaDevAttrMultiProcessorCount);
        if (status.ok()) status = ask(&queue->device.shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
        queue->device.capability = 10 * major + minor;
        if (status.ok())
            status = checked(cudaStreamCreateWithFlags(&queue->stream, cudaStreamNonBlocking), "opening a stream");
        for (cudaEvent_t& mark : queue->marks)
            if (status.ok())
                status = checked(cudaEventCreateWithFlags(&mark, cudaEventBlockingSync | cudaEventDisableTiming),
                                 "opening a stream");
        if (status.ok()) status = open_repeats(*queue);
        if (!status.ok()) {
            discard(queue);
            return status;
        }
        queue->cublaslt = open_cublaslt();
        out = Stream{};
        out.handle = queue;
        return {};
    }
    static void close_stream(Stream& stream) {
        auto* queue = static_cast<Queue*>(stream.handle);
        if (queue && select().ok()) close_cublaslt(queue->cublaslt);
        if (queue) discard(queue);
        stream = {};
    }
    static Status synchronize(const Stream& stream) {
        NOEMA_TRY(select());
        return wait(*static_cast<Queue*>(stream.handle), stream);
    }

    static Status send(void* device, const void* host, size_t bytes, const Stream& stream) {
        NOEMA_TRY(select());
        return checked(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, queue_of(stream).stream),
                       "copying to the device");
    }
    static Status receive(void* host, const void* device, size_t bytes, const Stream& stream) {
        NOEMA_TRY(select());
        return checked(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, queue_of(stream).stream),
                       "copying from the device");
    }
    // From pageable memory CUDA has copied `host` away before it returns.
    static Status upload(void* device, const void* host, size_t bytes, const Stream& stream) {
        return send(device, host, bytes, stream);
    }
    static Status download(void* host, const void* device, size_t bytes, const Stream& stream) {
        NOEMA_TRY(receive(host, device, bytes, stream));
        return synchronize(stream);
    }
    static Status clear(void* device, size_t bytes, const Stream& stream) {
        NOEMA_TRY(select());
        return checked(cudaMemsetAsync(device, 0, bytes, queue_of(stream).stream), "clearing memory");
    }

    static Status begin_recording(const Stream& stream) {
        NOEMA_TRY(select());
        return checked(cudaStreamBeginCapture(queue_of(stream).stream, cudaStreamCaptureModeThreadLocal), "recording");
    }
    static Status end_recording(const Stream& stream, Recording** out) {
        *out = nullptr;
        NOEMA_TRY(select());
        cudaGraph_t graph = nullptr;
        NOEMA_TRY(checked(cudaStreamEndCapture(queue_of(stream).stream, &graph), "recording"));
        cudaGraphExec_t executable = nullptr;
        const Status status = checked(cudaGraphInstantiate(&executable, graph, 0), "preparing a recording");
        cudaGraphDestroy(graph);
        *out = reinterpret_cast<Recording*>(executable);
        return status;
    }
    static Status replay(Recording* recording, const Stream& stream) {
        NOEMA_TRY(select());
        return checked(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(recording), queue_of(stream).stream),
                       "replaying a recording");
    }
    static void release_recording(Recording* recording) {
        if (recording && select().ok()) cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(recording));
    }

    static Status begin_repeat(const Repeat& repeat, const Stream& stream) {
        NOEMA_TRY(select());
        return cuda::begin_repeat(*static_cast<Queue*>(stream.handle), repeat, stream);
    }
    static Status end_repeat(const Repeat& repeat, bool complete, const Stream& stream) {
        NOEMA_TRY(select());
        return cuda::end_repeat(*static_cast<Queue*>(stream.handle), repeat, complete, stream);
    }

    static Backend make(const char* name) {
        Backend b;
        b.name = name;
        b.device = Device::cuda;
#define NOEMA_OP_yes(name) b.ops.name = name##_entry();
#define NOEMA_OP_no(name)
#define NOEMA_OP(name, Params, cpu, cuda, reference) NOEMA_OP_##cuda(name)
#include "noema/ops.def"
#undef NOEMA_OP
#undef NOEMA_OP_yes
#undef NOEMA_OP_no
        b.allocate = allocate;
        b.release = release;
        b.upload = upload;
        b.download = download;
        b.clear = clear;
        b.describe = describe;
        b.open_stream = open_stream;
        b.close_stream = close_stream;
        b.synchronize = synchronize;
        b.allocate_host = allocate_host;
        b.release_host = release_host;
        b.send = send;
        b.receive = receive;
        b.begin_recording = begin_recording;
        b.end_recording = end_recording;
        b.replay = replay;
        b.release_recording = release_recording;
        if (has_while_nodes()) b.begin_repeat = begin_repeat, b.end_repeat = end_repeat;
        b.packed_bytes = packed_bytes;
        b.packs_both_ways = true;
        return b;
    }

    static const Backend* backend() {
        static const Backend b = make(NOEMA_MODULE_NAME);
        return &b;
    }
};

template <int... kDevice>
const Backend* backend_of(int device) {
    const Backend* found = nullptr;
    ((device == kDevice ? void(found = Calls<kDevice>::backend()) : void()), ...);
    return found;
}

// A driver serves the runtimes of its own major version and older ones.
Status check_driver() {
    int version = 0, runtime = 0;
    NOEMA_TRY(checked(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version"));
    const cudaError_t error = cudaDriverGetVersion(&version);
    if (error != cudaSuccess || version == 0)
        return Status::error(Code::device_unavailable, "no NVIDIA driver is installed");
    const int major = runtime / 1000;
    if (version >= 1000 * major) return {};
    return Status::error(Code::device_unavailable,
                         "the NVIDIA driver offers CUDA %d.%d, this build of noema needs %d.0 or newer (driver %s)",
                         version / 1000, version % 1000 / 10, major, major <= 12 ? "525" : "580");
}

Status check_device(int device) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return Status::error(Code::device_unavailable, "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES can hide them)");
    NOEMA_TRY(checked(error, "counting the devices"));
    if (device >= count || device >= kMostDevices)
        return Status::error(Code::device_unavailable, "there is no GPU %d: this machine has %d", device, count);
    int major = 0, minor = 0;
    NOEMA_TRY(checked(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking the device"));
    NOEMA_TRY(checked(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking the device"));
    if (10 * major + minor < kLeastCapability)
        return Status::error(Code::device_unavailable,
                             "GPU %d has compute capability %d.%d, noema needs 8.0 (Ampere) or newer", device, major,
                             minor);
    return {};
}

}  // namespace

Status open_device(int version, int device, const Backend** out) {
    *out = nullptr;
    if (version != kBackendVersion)
        return Status::error(Code::device_unavailable,
                             "the CUDA module speaks version %d, the engine %d: build both anew", kBackendVersion,
                             version);
    NOEMA_TRY(check_driver());
    NOEMA_TRY(check_device(device));
    *out = backend_of<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(device);
    return {};
}

}  // namespace noema::cuda

extern "C" __attribute__((visibility("default"))) noema::Status noema_module(int version, int device,
                                                                             const noema::Backend** out) {
    return noema::cuda::open_device(version, device, out);
}
