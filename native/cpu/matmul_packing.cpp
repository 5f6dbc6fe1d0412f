#include "cpu/matmul_packing.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/matmul_packing.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

using DU = hn::RebindToUnsigned<DF>;
using VU = hn::Vec<DU>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));

// The bf16 nearest to each value (even on ties), in the upper half of its lane; NaN stays NaN.
HWY_INLINE VU upper_bf16(VF v) {
    const DU d;
    const VU u = hn::BitCast(d, v);
    const VU odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d, 1u));
    const VU rounded = hn::Add(hn::Add(u, hn::Set(d, 0x7FFFu)), odd);
    const VU quiet = hn::Or(u, hn::Set(d, 0x400000u));
    return hn::And(hn::IfThenElse(hn::RebindMask(d, hn::Eq(v, v)), rounded, quiet), hn::Set(d, 0xFFFF0000u));
}

HWY_INLINE VF load_bf16(const uint16_t* p) {
    const hn::Rebind<uint16_t, DF> dh;
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), hn::LoadU(dh, p))));
}

// Reads kLanes values, the last of them from behind `n` as zero.
HWY_INLINE VF load_values(const float* p, int64_t n) {
    return n >= kLanes ? hn::LoadU(DF(), p) : load_n(DF(), p, static_cast<size_t>(n));
}
HWY_INLINE VF load_values(const uint16_t* p, int64_t n) {
    if (n >= kLanes) return load_bf16(p);
    uint16_t padded[kLanes] = {};
    std::memcpy(padded, p, static_cast<size_t>(n) * 2);
    return load_bf16(padded);
}

// Lanes 2i and 2i+1 of a|b become lane i: two bf16 side by side.
HWY_INLINE VU paired(VF a, VF b) {
#if HWY_TARGET == HWY_SCALAR
    const VF even = a, odd = b;
#else
    const VF even = hn::ConcatEven(DF(), b, a), odd = hn::ConcatOdd(DF(), b, a);
#endif
    return hn::Or(upper_bf16(odd), hn::ShiftRight<16>(upper_bf16(even)));
}

template <class T>
HWY_INLINE void fetch(const T* p, int64_t n) {
    for (int64_t i = 0; i < n; i += kStepBytes / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i, 0, 2);
}

// One line of n values that lie side by side -> its steps, zero-filled up to `steps`.
template <class T>
void pack_line(const T* p, int64_t n, Packing packing, int64_t steps, uint32_t* out) {
    const DU d;
    if (packing == Packing::bf16_pairs) {
        for (int64_t s = 0; s < steps; s += kLanes) {
            const int64_t rest = n - 2 * s;
            const VF a = rest > 0 ? load_values(p + 2 * s, rest) : hn::Zero(DF());
            const VF b = rest > kLanes ? load_values(p + 2 * s + kLanes, rest - kLanes) : hn::Zero(DF());
            hn::StoreU(paired(a, b), d, out + s);
        }
        return;
    }
    const int64_t values = packing == Packing::f32 ? steps : 2 * steps;
    for (int64_t i = 0; i < values; i += kLanes) {
        const VF v = i < n ? load_values(p + i, n - i) : hn::Zero(DF());
        hn::StoreU(packing == Packing::f32 ? hn::BitCast(d, v) : upper_bf16(v), d, out + i);
    }
}

// Sixteen lines that lie side by side -> one step of a panel; `next` is the second k of a pair, null beyond K.
template <bool pairs, class T>
HWY_INLINE void pack_step(const T* p, const T* next, int64_t lines, uint32_t* out) {
    const DU d;
#pragma GCC unroll 4
    for (int64_t i = 0; i < kPanelColumns; i += kLanes) {
        const VF v = i < lines ? load_values(p + i, lines - i) : hn::Zero(DF());
        VU u = hn::BitCast(d, v);
        if constexpr (pairs) {
            const VF w = next && i < lines ? load_values(next + i, lines - i) : hn::Zero(DF());
            u = hn::Or(upper_bf16(w), hn::ShiftRight<16>(upper_bf16(v)));
        }
        hn::StoreU(u, d, out + i);
    }
}

// Rows of memory lie pages apart, where hardware does not look ahead; they are fetched one run before they are needed.
constexpr int64_t kFetchAhead = 64;

// Lines that lie side by side -> steps of panels. A row of memory is read across all panels before the next row is
// touched: a panel alone would read 64 bytes here and there, on another page for every k.
template <bool pairs, class T>
void pack_steps_of(const Factor& f, const Part& part, uint32_t* out, int64_t panel_pitch) {
    for (int64_t s = 0; s < part.steps; ++s, out += kPanelColumns) {
        const int64_t k = (part.step + s) * (pairs ? 2 : 1);
        const T* p = static_cast<const T*>(f.data) + k * f.pitch + part.line;
        const T* next = pairs && k + 1 < f.K ? p + f.pitch : nullptr;
        for (int64_t i = 0; i < part.lines; i += kPanelColumns) {
            uint32_t* to = out + i / kPanelColumns * panel_pitch;
            __builtin_prefetch(p + i + kFetchAhead * f.pitch, 0, 2);
            if (pairs) __builtin_prefetch(p + i + (kFetchAhead + 1) * f.pitch, 0, 2);
            if (k >= f.K)
                std::memset(to, 0, kStepBytes);
            else if (part.lines - i >= kPanelColumns && (next || !pairs))
                pack_step<pairs>(p + i, p + i + f.pitch, kPanelColumns, to);
            else
                pack_step<pairs>(p + i, next ? next + i : nullptr, part.lines - i, to);
        }
    }
}

template <class T>
void pack_steps(const Factor& f, Packing packing, const Part& part, uint32_t* out, int64_t panel_pitch) {
    if (packing == Packing::bf16_pairs)
        pack_steps_of<true, T>(f, part, out, panel_pitch);
    else
        pack_steps_of<false, T>(f, part, out, panel_pitch);
}

// 4x4 of `from` (pitch in u32) -> transposed into `to`.
HWY_INLINE void transpose4(const uint32_t* from, int64_t from_pitch, uint32_t* to, int64_t to_pitch) {
#if HWY_TARGET == HWY_SCALAR
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) to[i * to_pitch + j] = from[j * from_pitch + i];
#else
    const hn::CappedTag<uint32_t, 4> d;
    const hn::RepartitionToWide<decltype(d)> dw;
    const auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + from_pitch);
    const auto r2 = hn::LoadU(d, from + 2 * from_pitch), r3 = hn::LoadU(d, from + 3 * from_pitch);
    const auto a = hn::BitCast(dw, hn::InterleaveLower(d, r0, r1)), b = hn::BitCast(dw, hn::InterleaveLower(d, r2, r3));
    const auto c = hn::BitCast(dw, hn::InterleaveUpper(d, r0, r1)), e = hn::BitCast(dw, hn::InterleaveUpper(d, r2, r3));
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, a, b)), d, to);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, a, b)), d, to + to_pitch);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, c, e)), d, to + 2 * to_pitch);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, c, e)), d, to + 3 * to_pitch);
#endif
}

// Steps are packed in runs of this length when they pass through a transposition: 16 lines of it fit the first-level
// cache together with their result.
constexpr int64_t kRun = 64;

template <class T>
void pack_panel_from_lines(const Factor& f, Packing packing, const Part& part, uint32_t* out) {
    alignas(64) uint32_t lines[kPanelColumns][kRun + 16] = {};
    const int64_t depth = step_depth(packing), count = std::min(kPanelColumns, part.lines);
    for (int64_t s = 0; s < part.steps; s += kRun) {
        const int64_t steps = std::min(kRun, part.steps - s), k = (part.step + s) * depth;
        for (int64_t i = 0; i < count; ++i) {
            const T* line = static_cast<const T*>(f.data) + (part.line + i) * f.pitch + k;
            fetch(line + kRun * depth, kRun * depth);
            pack_line(line, std::min(f.K - k, steps * depth), packing, steps, lines[i]);
        }
        int64_t t = 0;
        for (; t + 4 <= steps; t += 4)
            for (int64_t i = 0; i < kPanelColumns; i += 4)
                transpose4(&lines[i][t], kRun + 16, out + (s + t) * kPanelColumns + i, kPanelColumns);
        for (; t < steps; ++t)
            for (int64_t i = 0; i < kPanelColumns; ++i) out[(s + t) * kPanelColumns + i] = lines[i][t];
    }
}

template <class T>
void pack_panels_of(const Factor& f, Packing packing, const Part& part, std::byte* out, int64_t panel_bytes) {
    if (!f.depth_is_last) return pack_steps<T>(f, packing, part, reinterpret_cast<uint32_t*>(out), panel_bytes / 4);
    for (int64_t i = 0; i < part.lines; i += kPanelColumns, out += panel_bytes)
        pack_panel_from_lines<T>(f, packing, {part.line + i, part.lines - i, part.step, part.steps},
                                 reinterpret_cast<uint32_t*>(out));
}

// Sixteen rows whose values lie a pitch apart, `n` values of each (as f32, or as pairs): steps first, then transposed.
template <class T>
HWY_INLINE void turn_steps(const Factor& f, Packing packing, const Part& part, uint32_t* out, int64_t pitch) {
    alignas(64) uint32_t steps[kRun * kPanelColumns];
    pack_steps<T>(f, packing, part, steps, 0);
    for (int64_t t = 0; t < part.steps; t += 4)
        for (int64_t r = 0; r < kPanelColumns; r += 4)
            transpose4(steps + t * kPanelColumns + r, kPanelColumns, out + r * pitch + t, pitch);
}

// f32_of_bf16 needs two values per step where a panel holds one, so it is made of single values. A run of k is read
// across all rows before the next one.
template <class T>
void pack_rows_across(const Factor& f, Packing packing, const Part& part, std::byte* out) {
    const bool rounded = packing == Packing::f32_of_bf16;
    const Packing inner = packing == Packing::bf16_pairs ? packing : Packing::f32;
    const int64_t scale = rounded ? 2 : 1, values = part.steps * scale, pitch = row_pitch(packing) / 4;
    for (int64_t s = 0; s < values; s += kRun)
        for (int64_t i = 0; i < part.lines; i += kPanelColumns) {
            const int64_t count = std::min(kPanelColumns, part.lines - i), n = std::min(kRun, values - s);
            const Part run{part.line + i, count, part.step * scale + s, n};
            uint32_t* to = reinterpret_cast<uint32_t*>(out) + i * pitch + s;
            if (!rounded && count == kPanelColumns && n % 4 == 0) {
                turn_steps<T>(f, inner, run, to, pitch);
                continue;
            }
            alignas(64) uint32_t turned[kPanelColumns * kRun];
            turn_steps<T>(f, inner, run, turned, kRun);
            for (int64_t r = 0; r < count; ++r)
                if (rounded)
                    pack_line(reinterpret_cast<const float*>(turned + r * kRun), n, packing, n / 2, to + r * pitch);
                else
                    std::memcpy(to + r * pitch, turned + r * kRun, static_cast<size_t>(n) * 4);
        }
}

constexpr int64_t kLinesAhead = 2;

template <class T>
void pack_rows_of(const Factor& f, Packing packing, const Part& part, std::byte* out) {
    if (!f.depth_is_last) return pack_rows_across<T>(f, packing, part, out);
    const int64_t depth = step_depth(packing), k = part.step * depth;
    for (int64_t i = 0; i < part.lines; ++i) {
        const T* line = static_cast<const T*>(f.data) + (part.line + i) * f.pitch + k;
        if (i + kLinesAhead < part.lines) fetch(line + kLinesAhead * f.pitch, part.steps * depth);
        pack_line(line, std::min(f.K - k, part.steps * depth), packing, part.steps,
                  reinterpret_cast<uint32_t*>(out + i * row_pitch(packing)));
    }
}

void pack_panels_any(const Factor& f, Packing packing, const Part& part, std::byte* out, int64_t panel_bytes) {
    if (f.dtype == DType::bf16)
        pack_panels_of<uint16_t>(f, packing, part, out, panel_bytes);
    else
        pack_panels_of<float>(f, packing, part, out, panel_bytes);
}

void pack_rows_any(const Factor& f, Packing packing, const Part& part, std::byte* out) {
    if (f.dtype == DType::bf16)
        pack_rows_of<uint16_t>(f, packing, part, out);
    else
        pack_rows_of<float>(f, packing, part, out);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {

HWY_EXPORT(pack_panels_any);
HWY_EXPORT(pack_rows_any);

Status pack(const MatmulPack& p, const Stream& stream, Workspace) {
    const int64_t N = p.weight.shape[p.transposed ? 1 : 0], K = p.weight.shape[p.transposed ? 0 : 1];
    const Packing packing = panel_packing(p.precision);
    const int64_t steps = panel_steps(K, packing);
    const Factor factor{p.weight.data, p.weight.dtype, p.weight.stride[0], !p.transposed, N, K};
    parallel_for(stream, divide_up(N, kPanelColumns), [&](int64_t i, int) {
        const int64_t line = i * kPanelColumns;
        pack_panels(factor, packing, {line, std::min(kPanelColumns, N - line), 0, steps},
                    static_cast<std::byte*>(p.packed) + i * steps * kStepBytes, steps * kStepBytes);
    });
    return {};
}

}  // namespace

void pack_panels(const Factor& b, Packing packing, const Part& part, std::byte* out, int64_t panel_bytes) {
    HWY_DYNAMIC_DISPATCH(pack_panels_any)(b, packing, part, out, panel_bytes);
}

void pack_rows(const Factor& a, Packing packing, const Part& part, std::byte* out) {
    HWY_DYNAMIC_DISPATCH(pack_rows_any)(a, packing, part, out);
}

size_t packed_bytes(const View& weight, Precision precision, bool transposed) {
    const int64_t N = weight.shape[transposed ? 1 : 0], K = weight.shape[transposed ? 0 : 1];
    return static_cast<size_t>(divide_up(N, kPanelColumns) * panel_steps(K, panel_packing(precision)) * kStepBytes);
}

Op<MatmulPack> matmul_pack_entry() {
    return {pack, nullptr};
}

}  // namespace noema::cpu
#endif
