// The shared memory of one block and what is known of every two bytes of it: written yet, by whom, read by whom, since when.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device.h"

namespace noema::cuda::emulation {

/// When a thread touched something: barriers of its block and of its warp that it had passed.
struct Moment {
    int thread = -1;
    uint32_t block_epoch = 0, warp_epoch = 0;
};

class SharedMemory {
 public:
    /// A new block: nothing is written.
    void clear(size_t dynamic_bytes, size_t granted_bytes);
    unsigned char* fixed(const void* tag, size_t bytes);
    unsigned char* dynamic(size_t offset, size_t bytes);
    /// Null, or what is wrong with the access.
    const char* touch(const void* at, size_t bytes, Access access, const Moment& now);
    /// Where in the block's memory it points to, or -1 when outside.
    int64_t offset_of(const void* p) const;

 private:
    struct Cell {
        Moment write, read;
        bool written = false, atomic = false, many_readers = false, many_warps = false;
    };
    struct Fixed {
        const void* tag;
        size_t start, bytes;
    };
    void check_limits() const;
    const char* read(Cell& cell, const Moment& now);
    const char* write(Cell& cell, const Moment& now, bool atomic);

    alignas(128) unsigned char memory_[256 << 10];
    std::vector<Cell> cells_;
    std::vector<Fixed> fixed_;
    size_t dynamic_bytes_ = 0, granted_bytes_ = 0, fixed_bytes_ = 0;
    size_t used_ = 0;  // with what aligns its parts
};

}  // namespace noema::cuda::emulation
