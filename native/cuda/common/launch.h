// The one place where kernels are launched.
#pragma once

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

/// Queues kernel(arguments...) on the stream. A grid without blocks is no work.
template <class... P, class... A>
Status launch(const char* name, const Stream& stream, const Grid& grid, void (*kernel)(P...), const A&... arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return {};
    constexpr size_t kGranted = 48 << 10;  // more must be asked for
    if (grid.shared_bytes > kGranted) {
        NOEMA_TRY(checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(grid.shared_bytes)),
                          name));
    }
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid.blocks;
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = queue_of(stream).stream;
    config.attrs = &attribute;
    config.numAttrs = grid.cooperative ? 1 : 0;
    name_launch(name);
    return checked(cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...), name);
}

}  // namespace noema::cuda
