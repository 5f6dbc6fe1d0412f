#include "memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace noema::cuda::emulation {

namespace {

constexpr size_t kPage = 4096;

// Blocks lie apart by a page of nobody's, which the sanitizer build poisons.
struct Memory {
    std::recursive_mutex lock;
    unsigned char* base = nullptr;
    size_t total = 0, used = 0, reach = 0;  // reach: how far the range has been used
    int at_work = 0;
    std::map<unsigned char*, size_t> blocks;

    Memory() {
        const char* text = std::getenv("NOEMA_EMULATED_MEMORY");
        total = text ? std::strtoull(text, nullptr, 10) : size_t{4} << 30;
        void* range = mmap(nullptr, span(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        base = range == MAP_FAILED ? nullptr : static_cast<unsigned char*>(range);
    }

    // Twice the capacity, so that gaps between blocks do not count as memory.
    size_t span() const { return (2 * total + (size_t{64} << 20)) / kPage * kPage; }

    /// First fit.
    unsigned char* place(size_t bytes) const {
        unsigned char* at = base;
        for (const auto& [start, size] : blocks) {
            if (static_cast<size_t>(start - at) >= bytes + kPage) return at;
            at = start + (size + 2 * kPage - 1) / kPage * kPage;
        }
        return static_cast<size_t>(base + span() - at) >= bytes + kPage ? at : nullptr;
    }
};

// Never destroyed: threads of the host may outlive static objects.
Memory& memory() {
    static Memory* m = new Memory;
    return *m;
}

}  // namespace

void* allocate_device_memory(size_t bytes) {
    Memory& m = memory();
    const std::lock_guard<std::recursive_mutex> guard(m.lock);
    if (!m.base || bytes > m.total - m.used) return nullptr;
    unsigned char* at = m.place(bytes ? bytes : 1);
    if (!at) return nullptr;
    m.blocks[at] = bytes ? bytes : 1;
    m.used += bytes;
    const size_t end = static_cast<size_t>(at - m.base) + (bytes + 2 * kPage - 1) / kPage * kPage;
    if (end > m.reach) {
        if (m.at_work) mprotect(m.base + m.reach, end - m.reach, PROT_READ | PROT_WRITE);
        ASAN_POISON_MEMORY_REGION(m.base + m.reach, end - m.reach);
        m.reach = end;
    }
    ASAN_UNPOISON_MEMORY_REGION(at, bytes ? bytes : 1);
    return at;
}

bool free_device_memory(void* p) {
    Memory& m = memory();
    const std::lock_guard<std::recursive_mutex> guard(m.lock);
    const auto found = m.blocks.find(static_cast<unsigned char*>(p));
    if (found == m.blocks.end()) return false;
    ASAN_POISON_MEMORY_REGION(found->first, found->second);
    m.used -= found->second;
    m.blocks.erase(found);
    return true;
}

size_t device_memory_total() {
    return memory().total;
}

size_t device_memory_free() {
    Memory& m = memory();
    const std::lock_guard<std::recursive_mutex> guard(m.lock);
    return m.total - m.used;
}

bool is_device_memory(const void* p, size_t bytes) {
    Memory& m = memory();
    const std::lock_guard<std::recursive_mutex> guard(m.lock);
    auto* at = static_cast<unsigned char*>(const_cast<void*>(p));
    auto next = m.blocks.upper_bound(at);
    if (next == m.blocks.begin()) return false;
    const auto& [start, size] = *std::prev(next);
    return at + bytes <= start + size;
}

DeviceAtWork::DeviceAtWork() {
    Memory& m = memory();
    m.lock.lock();
    if (m.at_work++ == 0 && m.reach) mprotect(m.base, m.reach, PROT_READ | PROT_WRITE);
}

DeviceAtWork::~DeviceAtWork() {
    Memory& m = memory();
    if (--m.at_work == 0 && m.reach) mprotect(m.base, m.reach, PROT_NONE);
    m.lock.unlock();
}

}  // namespace noema::cuda::emulation
