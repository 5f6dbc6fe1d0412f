// Register-only rates of vdpbf16ps and tdpbf16ps, which Highway 1.0 has no instruction set for.
#include <immintrin.h>

#include <cstdint>

#include "ops/ceilings.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512bf16,amx-tile,amx-bf16")

namespace noema::bench {

double dot_bf16_burst() {
    constexpr int kChains = 16, kRounds = 20000;
    __m512 sums[kChains];
    const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3F003F00));
// Equal chains would be merged into one by the compiler.
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
    for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
#pragma GCC unroll 16
    for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    volatile float sink = _mm512_cvtss_f32(sums[0]);
    (void)sink;
    return 64.0 * kChains * kRounds;
}

double dot_amx_burst() {
    constexpr int kRounds = 4000;
    alignas(64) uint8_t config[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
        config[16 + 2 * tile] = 64;
        config[48 + tile] = 16;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int round = 0; round < kRounds; ++round) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * kRounds * 2 * 16 * 16 * 32;
}

}  // namespace noema::bench

#pragma GCC pop_options
