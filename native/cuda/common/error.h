// CUDA's errors as noema's.
#pragma once

#include "device.h"
#include "noema/status.h"

namespace noema::cuda {

/// What `what` came to. Memory that could not be had is out_of_memory, everything else device_unavailable: after most of CUDA's errors
/// a context is of no more use.
inline Status checked(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return {};
    cudaGetLastError();  // not the next call's error
    const Code code = error == cudaErrorMemoryAllocation ? Code::out_of_memory : Code::device_unavailable;
    return Status::error(code, "CUDA: %s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace noema::cuda
