#include "cpu/reading.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace noema::cpu {

namespace {

constexpr int64_t kUsualCache = int64_t{32} << 20;

#if defined(__x86_64__)
/// The largest of the caches that a leaf of cpuid lists: 4, or AMD's own.
int64_t largest_cache(unsigned leaf) {
    int64_t most = 0;
    for (unsigned i = 0; i < 8; ++i) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d) || (a & 31) == 0) break;
        const int64_t ways = (b >> 22) + 1, partitions = (b >> 12 & 1023) + 1, line = (b & 4095) + 1;
        most = std::max(most, ways * partitions * line * (int64_t{c} + 1));
    }
    return most;
}
int64_t find_last_cache() {
    const int64_t most = std::max(largest_cache(4), largest_cache(0x8000001D));
    return most > 0 ? most : kUsualCache;
}
#else
int64_t find_last_cache() {
    return kUsualCache;
}
#endif

}  // namespace

bool beyond_caches(int64_t bytes) {
    static const int64_t last = find_last_cache();
    return bytes > last / 4 * 3;
}

}  // namespace noema::cpu
