// The tile kernel on the processor's own tiles. Permission to use them was asked for by isa.cpp.
#include "cpu/matmul_block.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16")

#include "cpu/matmul_tiles-inl.h"

namespace noema::cpu {

namespace {

struct HardwareTiles {
    // Palette 1: 64-byte rows in every tile. The instruction reads 64 bytes; GCC 12's intrinsic declares eight of them
    // and lets the rest be optimised away, hence the assembly.
    void configure(const uint8_t (&rows)[8]) {
        struct alignas(64) Config {
            uint8_t bytes[64];
        } config{{1}};
        for (int t = 0; t < 8; ++t) {
            config.bytes[16 + 2 * t] = 64;
            config.bytes[48 + t] = rows[t];
        }
        __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
    }
    template <int T>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
    }
    template <int T>
    void load(const void* from, int64_t pitch) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(pitch), "i"(T) : "memory");
    }
    template <int T>
    void store(void* to, int64_t pitch) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(pitch), "i"(T) : "memory");
    }
    template <int Sum, int A, int B>
    void dot() {
        __asm__ volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(B), "i"(A), "i"(Sum));
    }
    void release() { __asm__ volatile("tilerelease"); }
};

}  // namespace

void multiply_tiles(const BlockProduct& p) {
    TileKernel<HardwareTiles>{{}, p}.run();
}

}  // namespace noema::cpu

#pragma GCC pop_options
#endif
