// What a Stream's handle points to.
#pragma once

#include "device.h"
#include "noema/stream.h"

namespace noema::cuda {

/// What kernels are chosen by.
struct DeviceTraits {
    int index = 0;
    int capability = 0;  // 10 * major + minor
    int multiprocessors = 0;
    int shared_bytes_per_block = 0;
};

class Cublaslt;

/// What repeat.cu keeps.
struct Repeats {
    cudaStream_t body = nullptr;  // changes places with the queue's own while rounds are recorded
    int* stop = nullptr;          // page-locked: ends what the device repeats
    unsigned long long handle = 0;
    bool open = false;   // between begin and end
    bool alone = false;  // no part of a recording
    bool used = false;   // some of this queue's work may repeat
};

struct Queue {
    cudaStream_t stream = nullptr;
    cudaEvent_t marks[2] = {};  // common/pace.h
    Repeats repeats;
    DeviceTraits device;
    Cublaslt* cublaslt = nullptr;  // common/cublaslt.h; null where there is none
};

inline const Queue& queue_of(const Stream& stream) {
    return *static_cast<const Queue*>(stream.handle);
}

}  // namespace noema::cuda
