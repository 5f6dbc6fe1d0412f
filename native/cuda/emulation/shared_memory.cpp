#include "shared_memory.h"

#include "block.h"

#include <cstring>

namespace noema::cuda::emulation {

namespace {

/// Whether `a` comes before `b` by a barrier.
bool ordered(const Moment& a, const Moment& b) {
    if (a.thread == b.thread || a.block_epoch != b.block_epoch) return true;
    return a.thread / 32 == b.thread / 32 && a.warp_epoch != b.warp_epoch;
}

}  // namespace

// Static arrays lie behind the dynamic part. What a last block left is made garbage, so that results show its use too.
void SharedMemory::clear(size_t dynamic_bytes, size_t granted_bytes) {
    if (used_) std::memset(memory_, 0xFB, used_);
    dynamic_bytes_ = dynamic_bytes, granted_bytes_ = granted_bytes, fixed_bytes_ = 0;
    used_ = (dynamic_bytes + 127) / 128 * 128;
    fixed_.clear();
    cells_.assign(used_ / 2, Cell{});
}

unsigned char* SharedMemory::fixed(const void* tag, size_t bytes) {
    for (const Fixed& f : fixed_)
        if (f.tag == tag) return memory_ + f.start;
    fixed_.push_back({tag, used_, bytes});
    used_ += (bytes + 127) / 128 * 128;
    fixed_bytes_ += bytes;
    check_limits();
    cells_.resize(used_ / 2);
    return memory_ + fixed_.back().start;
}

/// A device refuses such a launch; here a kernel's static arrays are not known before it comes to them.
void SharedMemory::check_limits() const {
    constexpr size_t kUnasked = 48 << 10;
    const size_t all = dynamic_bytes_ + fixed_bytes_;
    if (all > kMostSharedBytes || used_ > sizeof memory_)
        report("%zu bytes of shared memory are more than a block has", all);
    if (granted_bytes_ == 0 && all > kUnasked)
        report("%zu bytes of shared memory, %zu of them static, were not asked for", all, fixed_bytes_);
}

unsigned char* SharedMemory::dynamic(size_t offset, size_t bytes) {
    check_limits();
    if (offset + bytes > dynamic_bytes_)
        report("dynamic shared memory from byte %zu to %zu was asked for, the launch gave %zu", offset, offset + bytes,
               dynamic_bytes_);
    return memory_ + offset;
}

int64_t SharedMemory::offset_of(const void* p) const {
    const int64_t offset = static_cast<const unsigned char*>(p) - memory_;
    return offset >= 0 && offset < static_cast<int64_t>(used_) ? offset : -1;
}

const char* SharedMemory::read(Cell& cell, const Moment& now) {
    if (!cell.written) return "is read before anything wrote it";
    if (!ordered(cell.write, now)) return "is read while another thread writes it (no barrier between)";
    const bool same_phase = cell.read.thread >= 0 && cell.read.block_epoch == now.block_epoch;
    cell.many_warps = same_phase && (cell.many_warps || cell.read.thread / 32 != now.thread / 32);
    const bool same_warp_phase = same_phase && cell.read.warp_epoch == now.warp_epoch;
    cell.many_readers = same_warp_phase && (cell.many_readers || cell.read.thread != now.thread);
    cell.read = now;
    return nullptr;
}

const char* SharedMemory::write(Cell& cell, const Moment& now, bool atomic) {
    if (cell.written && !(atomic && cell.atomic) && !ordered(cell.write, now))
        return "is written by two threads (no barrier between)";
    const bool same_phase = cell.read.thread >= 0 && cell.read.block_epoch == now.block_epoch;
    const bool others = cell.many_warps || (cell.many_readers && cell.read.warp_epoch == now.warp_epoch);
    if (same_phase && !atomic && (others || !ordered(cell.read, now)))
        return "is written while another thread reads it (no barrier between)";
    cell.written = true;
    cell.atomic = atomic;
    cell.write = now;
    return nullptr;
}

const char* SharedMemory::touch(const void* at, size_t bytes, Access access, const Moment& now) {
    const int64_t offset = offset_of(at);
    if (offset < 0) return "lies outside the block's memory";
    for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i) {
        const char* wrong =
            access == Access::read ? read(cells_[i], now) : write(cells_[i], now, access == Access::atomic);
        if (wrong) return wrong;
        if (access == Access::claim) cells_[i].written = false;
    }
    return nullptr;
}

}  // namespace noema::cuda::emulation
