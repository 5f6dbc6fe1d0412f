// The block kernel of AVX512-BF16 (vdpbf16ps), which Highway 1.0 has no target for. Chosen at run time; the instruction
// rounds and flushes by rules of its own, so every path of this level goes through it.
#include "cpu/matmul_block.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")

namespace noema::cpu {

namespace {

// As in matmul_block.cpp: 12 rows x 2 panels hold 24 of 32 registers; fewer rows take more panels, for chains enough.
constexpr int kMaxRows = 12;
constexpr int panels_at_once(int rows) {
    return rows <= 3 ? 8 : rows <= 6 ? 4 : 2;
}
constexpr int64_t kPairPitch = row_pitch(Packing::bf16_pairs) / 4;

struct Micro {
    const uint32_t* a;
    const std::byte* b;
    int64_t panel_bytes;
    float* sums;
    int64_t pitch;
    int64_t steps;
    bool first;
    // As in matmul_block.cpp.
    int64_t ahead;
    bool from_memory;
};

template <int R, int P, bool fetch>
inline __attribute__((always_inline)) void micro(const Micro& t) {
    __m512 sums[R][P];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < P; ++v)
            sums[r][v] = t.first ? _mm512_setzero_ps() : _mm512_loadu_ps(t.sums + r * t.pitch + v * kPanelColumns);
    const uint32_t* a = t.a;
    const std::byte* b = t.b;
    for (int64_t s = 0; s < t.steps; ++s, ++a, b += kStepBytes) {
        __m512i column[P];
#pragma GCC unroll 16
        for (int v = 0; v < P; ++v) {
            if constexpr (fetch) __builtin_prefetch(b + v * t.panel_bytes + t.ahead, 0, 2);
            column[v] = _mm512_load_si512(b + v * t.panel_bytes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * kPairPitch]));
#pragma GCC unroll 16
            for (int v = 0; v < P; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], pair, (__m512bh)column[v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < P; ++v) _mm512_storeu_ps(t.sums + r * t.pitch + v * kPanelColumns, sums[r][v]);
}

// `panels` is at most panels_at_once(R); an odd rest goes by halves.
template <int R, int P = panels_at_once(R)>
__attribute__((noinline)) void micro_panels(Micro t, int64_t panels) {
    for (; panels >= P; panels -= P) {
        if (t.ahead && (P < 4 || t.from_memory))
            micro<R, P, true>(t);
        else
            micro<R, P, false>(t);
        t.b += P * t.panel_bytes;
        t.sums += P * kPanelColumns;
    }
    if constexpr (P > 1)
        if (panels > 0) micro_panels<R, P / 2>(t, panels);
}

template <int R = kMaxRows>
void micro_rows(const Micro& t, int64_t rows, int64_t panels) {
    if constexpr (R > 1)
        if (rows < R) return micro_rows<R - 1>(t, rows, panels);
    micro_panels<R>(t, panels);
}

}  // namespace

void multiply_bf16(const BlockProduct& p) {
    constexpr int64_t pitch = row_pitch(Packing::bf16_pairs);
    const int64_t rows = divide_up(p.rows, divide_up(p.rows, kMaxRows));
    const int64_t group = panels_at_once(static_cast<int>(rows));
    for (int64_t n = 0; n < p.panels; n += group)
        for (int64_t m = 0; m < p.rows; m += rows)
            micro_rows({reinterpret_cast<const uint32_t*>(p.a + m * pitch), p.b + n * p.panel_bytes, p.panel_bytes,
                        p.sums + m * p.pitch + n * kPanelColumns, p.pitch, p.steps, p.first,
                        fetch_distance(p, n, group), p.from_memory},
                       std::min(rows, p.rows - m), std::min(group, p.panels - n));
}

}  // namespace noema::cpu

#pragma GCC pop_options
#endif
