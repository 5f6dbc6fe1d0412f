#include "isa.h"

#include <cpuid.h>
#include <hwy/targets.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace noema::cpu {

namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512-bf16", "amx"};
constexpr int kLevels = 5;

bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, int bit) {
    unsigned r[4];
    if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
    return r[reg] >> bit & 1;
}

// The kernel grants the 8 KB of tile state per process on request, and only to those who ask.
bool amx_granted() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    const bool has_tiles = cpuid_bit(7, 0, 3, 24) && cpuid_bit(7, 0, 3, 22);  // amx-tile, amx-bf16
    return has_tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Isa detect() {
    const int64_t targets = hwy::SupportedTargets();
    if (!(targets & (HWY_AVX2 | HWY_AVX3))) return Isa::portable;
    if (!(targets & HWY_AVX3)) return Isa::avx2;
    if (!cpuid_bit(7, 1, 0, 5)) return Isa::avx512;
    return amx_granted() ? Isa::amx : Isa::avx512_bf16;
}

Isa best_isa() {
    static const Isa best = detect();
    return best;
}

std::atomic<Isa>& chosen() {
    static std::atomic<Isa> isa{best_isa()};
    return isa;
}

int64_t highway_targets(Isa isa) {
    constexpr int64_t portable = HWY_EMU128 | HWY_SCALAR;
    if (isa == Isa::portable) return portable;
    if (isa == Isa::avx2) return HWY_AVX2 | portable;
    return 0;  // everything the machine has
}

}  // namespace

Isa current_isa() {
    return chosen().load(std::memory_order_relaxed);
}

const char* isa_name() {
    return kNames[static_cast<int>(current_isa())];
}

const char* const* isa_list() {
    static const char* list[kLevels + 1] = {};
    static const bool filled = [] {
        int n = 0;
        for (int level = static_cast<int>(best_isa()); level >= 0; --level) list[n++] = kNames[level];
        return true;
    }();
    (void)filled;
    return list;
}

Status force_isa(const char* name) {
    Isa isa = best_isa();
    if (name) {
        int level = 0;
        while (level < kLevels && std::strcmp(kNames[level], name) != 0) ++level;
        if (level == kLevels)
            return Status::error(Code::unknown_option, "instruction set '%s' is unknown; this machine has %s and below",
                                 name, kNames[static_cast<int>(best_isa())]);
        isa = static_cast<Isa>(level);
        if (isa > best_isa())
            return Status::error(Code::unsupported, "this machine lacks %s; its best is %s", name,
                                 kNames[static_cast<int>(best_isa())]);
    }
    chosen().store(isa, std::memory_order_relaxed);
    hwy::SetSupportedTargetsForTest(highway_targets(isa));
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    return {};
}

}  // namespace noema::cpu
