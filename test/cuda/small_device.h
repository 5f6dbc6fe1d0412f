// What the emulation's own tests launch on and look at.
#pragma once

#include <vector>

#include "common/launch.h"

namespace noema::cuda {

/// A queue to launch on.
struct Device {
    Queue queue;
    Stream stream;

    Device() {
        cudaStreamCreateWithFlags(&queue.stream, cudaStreamNonBlocking);
        cudaDeviceGetAttribute(&queue.device.shared_bytes_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
        stream.handle = &queue;
    }
    ~Device() { cudaStreamDestroy(queue.stream); }
};

template <class T>
struct Array {
    T* data = nullptr;
    int n;

    explicit Array(const std::vector<T>& values) : n(static_cast<int>(values.size())) {
        cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T));
        cudaMemcpyAsync(data, values.data(), n * sizeof(T), cudaMemcpyHostToDevice, nullptr);
    }
    ~Array() { cudaFree(data); }
    std::vector<T> values() const {
        std::vector<T> out(n);
        cudaMemcpyAsync(out.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost, nullptr);
        return out;
    }
};

}  // namespace noema::cuda
