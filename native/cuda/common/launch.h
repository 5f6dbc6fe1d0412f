// The one place where kernels are launched.
#pragma once

#include <mutex>
#include <set>
#include <utility>

#include "common/error.h"
#include "common/queue.h"
#include "noema/stream.h"

namespace noema::cuda {

/// Shape of a launch.
struct Grid {
    dim3 blocks;
    int threads = 0;
    size_t shared_bytes = 0;   // dynamic
    bool cooperative = false;  // all blocks at once: for grid_barrier
};

/// CUDA's limit for blocks.y and blocks.z (blocks.x: 2^31 - 1).
constexpr int64_t kMostGridRows = 65535;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/// As much dynamic shared memory for a kernel as a block can have beside what the kernel has statically, once and for all: the limit is the
/// function's, whoever launches it, so it is never lowered under a neighbour's feet.
inline Status grant_shared(const void* kernel, const Queue& queue, const char* name) {
    static std::mutex lock;
    static std::set<std::pair<int, const void*>> granted;
    const std::lock_guard<std::mutex> guard(lock);
    const std::pair<int, const void*> key{queue.device.index, kernel};
    if (granted.contains(key)) return {};
    cudaFuncAttributes attributes = {};
    NOEMA_TRY(checked(cudaFuncGetAttributes(&attributes, kernel), name));
    const int most = queue.device.shared_bytes_per_block - static_cast<int>(attributes.sharedSizeBytes);
    NOEMA_TRY(checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), name));
    granted.insert(key);
    return {};
}

/// Queues kernel(arguments...) on the stream. A grid without blocks is no work.
template <class... P, class... A>
Status launch(const char* name, const Stream& stream, const Grid& grid, void (*kernel)(P...), const A&... arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return {};
    // More than 48 KB, what the kernel has statically included (a few at most), must be asked for.
    constexpr size_t kSurelyGranted = 40 << 10;
    const Queue& queue = queue_of(stream);
    NOEMA_TRY(checked(cudaSetDevice(queue.device.index), name));
    if (grid.shared_bytes > kSurelyGranted) NOEMA_TRY(grant_shared(reinterpret_cast<const void*>(kernel), queue, name));
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid.blocks;
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = queue.stream;
    config.attrs = &attribute;
    config.numAttrs = grid.cooperative ? 1 : 0;
    name_launch(name);
    return checked(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), name);
}

}  // namespace noema::cuda
