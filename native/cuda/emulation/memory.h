// The device's memory: one range of addresses, closed to the host but while the device works.
#pragma once

#include <cstddef>

namespace noema::cuda::emulation {

/// 256-byte aligned, or null when the device is full.
void* allocate_device_memory(size_t bytes);
/// False when it is no such block.
bool free_device_memory(void* memory);
size_t device_memory_total();
size_t device_memory_free();
bool is_device_memory(const void* p, size_t bytes);

/// Opens the device's memory for a scope.
class DeviceAtWork {
 public:
    DeviceAtWork();
    ~DeviceAtWork();
    DeviceAtWork(const DeviceAtWork&) = delete;
    DeviceAtWork& operator=(const DeviceAtWork&) = delete;
};

}  // namespace noema::cuda::emulation
