#include "cpu/matmul_block.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/matmul_block.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
constexpr int kVectors = static_cast<int>(kPanelColumns) / kLanes;  // of one panel

// Register tiles. Sums take rows * vectors registers; the rest holds one step of B and one broadcast of A.
//   AVX-512, 32 registers: 12 rows x 2 panels (24 sums); 6 x 4; 3 x 8. With few rows more panels are needed at a time:
//   an FMA takes 4 cycles and two start per cycle, so fewer than 8 chains leave them idle.
//   AVX2, 16 registers: 6 rows x 1 panel of two vectors (12 sums); 3 x 2; 1 x 4.
constexpr int kMaxRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;

constexpr int panels_at_once(int rows) {
    if (kLanes == 16) return rows <= 3 ? 8 : rows <= 6 ? 4 : 2;
    if (kLanes == 8) return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
    return 1;
}

struct Micro {
    const std::byte* a;
    const std::byte* b;
    int64_t panel_bytes;
    float* sums;
    int64_t pitch;
    int64_t steps;
    bool first;
    int64_t ahead;  // bytes from a line to the one to fetch meanwhile
    bool from_memory;
};

/// Few panels at a time are few streams, and the hardware follows each only to the end of its page: the same step of the next group
/// is asked for. Eight or four panels are streams enough where a cache holds them (fetched, they took 15 % more), but not from memory
/// (a fifth less). They are asked for from the second-level cache: the first has buffers for too few misses (a third less).
HWY_INLINE bool fetches(const Micro& t, int panels) {
    return t.ahead && (panels < 4 || t.from_memory);
}

template <int R, int P, bool fetch>
HWY_INLINE void micro_f32(const Micro& t) {
    constexpr int V = P * kVectors;
    constexpr int64_t A = row_pitch(Packing::f32) / 4;
    const DF d;
    VF sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v)
            sums[r][v] = t.first ? hn::Zero(d) : hn::LoadU(d, t.sums + r * t.pitch + v * kLanes);
    const float* a = reinterpret_cast<const float*>(t.a);
    const std::byte* b = t.b;
    for (int64_t s = 0; s < t.steps; ++s, ++a, b += kStepBytes) {
        VF column[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const std::byte* line = b + (v / kVectors) * t.panel_bytes;
            if constexpr (fetch)
                if (v % kVectors == 0) __builtin_prefetch(line + t.ahead, 0, 2);
            column[v] = hn::Load(d, reinterpret_cast<const float*>(line) + (v % kVectors) * kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const VF x = hn::Set(d, a[r * A]);
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(x, column[v], sums[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) hn::StoreU(sums[r][v], d, t.sums + r * t.pitch + v * kLanes);
}

// bf16 pairs widened to two f32 vectors: the even k first, then the odd.
template <int R, int P, bool fetch>
HWY_INLINE void micro_widened(const Micro& t) {
    constexpr int V = P * kVectors;
    constexpr int64_t A = row_pitch(Packing::f32_of_bf16) / 4;
    const DF d;
    const hn::RebindToUnsigned<DF> du;
    VF sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v)
            sums[r][v] = t.first ? hn::Zero(d) : hn::LoadU(d, t.sums + r * t.pitch + v * kLanes);
    const float* a = reinterpret_cast<const float*>(t.a);
    const std::byte* b = t.b;
    for (int64_t s = 0; s < t.steps; ++s, a += 2, b += kStepBytes) {
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd) {
            VF column[V];
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) {
                const std::byte* line = b + (v / kVectors) * t.panel_bytes;
                if constexpr (fetch)
                    if (v % kVectors == 0 && odd == 0) __builtin_prefetch(line + t.ahead, 0, 2);
                const auto pair = hn::Load(du, reinterpret_cast<const uint32_t*>(line) + (v % kVectors) * kLanes);
                column[v] = hn::BitCast(d, odd ? hn::And(pair, hn::Set(du, 0xFFFF0000u)) : hn::ShiftLeft<16>(pair));
            }
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const VF x = hn::Set(d, a[r * A + odd]);
#pragma GCC unroll 16
                for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(x, column[v], sums[r][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) hn::StoreU(sums[r][v], d, t.sums + r * t.pitch + v * kLanes);
}

template <bool widened, int R, int P, bool fetch>
HWY_INLINE void micro(const Micro& t) {
    if constexpr (widened)
        micro_widened<R, P, fetch>(t);
    else
        micro_f32<R, P, fetch>(t);
}

// `panels` is at most panels_at_once(R); an odd rest goes by halves.
template <bool widened, int R, int P = panels_at_once(R)>
HWY_NOINLINE void micro_panels(Micro t, int64_t panels) {
    for (; panels >= P; panels -= P) {
        if (fetches(t, P))
            micro<widened, R, P, true>(t);
        else
            micro<widened, R, P, false>(t);
        t.b += P * t.panel_bytes;
        t.sums += P * kPanelColumns;
    }
    if constexpr (P > 1)
        if (panels > 0) micro_panels<widened, R, P / 2>(t, panels);
}

template <bool widened, int R = kMaxRows>
HWY_INLINE void micro_rows(const Micro& t, int64_t rows, int64_t panels) {
    if constexpr (R > 1)
        if (rows < R) return micro_rows<widened, R - 1>(t, rows, panels);
    micro_panels<widened, R>(t, panels);
}

// A group of panels stays in the first-level cache while the rows pass by.
template <bool widened>
HWY_INLINE void multiply_rows(const BlockProduct& p) {
    constexpr int64_t pitch = row_pitch(widened ? Packing::f32_of_bf16 : Packing::f32);
    const int64_t rows = divide_up(p.rows, divide_up(p.rows, kMaxRows));
    const int64_t group = panels_at_once(static_cast<int>(rows));
    for (int64_t n = 0; n < p.panels; n += group)
        for (int64_t m = 0; m < p.rows; m += rows)
            micro_rows<widened>(
                {p.a + m * pitch, p.b + n * p.panel_bytes, p.panel_bytes, p.sums + m * p.pitch + n * kPanelColumns,
                 p.pitch, p.steps, p.first, fetch_distance(p, n, group), p.from_memory},
                std::min(rows, p.rows - m), std::min(group, p.panels - n));
}

void multiply_f32_simd(const BlockProduct& p) {
    multiply_rows<false>(p);
}
void multiply_widened_simd(const BlockProduct& p) {
    multiply_rows<true>(p);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {
HWY_EXPORT(multiply_f32_simd);
HWY_EXPORT(multiply_widened_simd);
}  // namespace

void multiply_f32(const BlockProduct& p) {
    HWY_DYNAMIC_DISPATCH(multiply_f32_simd)(p);
}
void multiply_widened(const BlockProduct& p) {
    HWY_DYNAMIC_DISPATCH(multiply_widened_simd)(p);
}

}  // namespace noema::cpu
#endif
