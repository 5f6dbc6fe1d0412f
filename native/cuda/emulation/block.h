// Runs the blocks of a grid as fibers.
#pragma once

#include <functional>

#include "runtime.h"

namespace noema::cuda::emulation {

/// What a block may have at the most, on capability 9.0.
constexpr size_t kMostSharedBytes = 227 << 10;

struct Grid {
    dim3 blocks, threads;
    size_t dynamic_bytes,
        granted_bytes;  // of shared memory; granted: what the kernel was allowed, 0 where nobody asked
    bool cooperative;
    const char* name;
};

/// False after a report (device.h); last_report() has its text. One grid at a time, under DeviceAtWork's lock.
bool run_grid(const Grid& grid, const std::function<void()>& body);

}  // namespace noema::cuda::emulation
