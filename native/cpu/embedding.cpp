#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/embedding.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

// bf16 is the upper half of an f32.
void widen_row(const uint16_t* x, float* y, int64_t C) {
    const DF d;
    const hn::Rebind<uint16_t, DF> dh;
    const hn::RebindToUnsigned<DF> du;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    int64_t c = 0;
    for (; c + L <= C; c += L)
        hn::StoreU(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, x + c)))), d, y + c);
    for (; c < C; ++c) {
        const uint32_t bits = static_cast<uint32_t>(x[c]) << 16;
        std::memcpy(y + c, &bits, sizeof bits);
    }
}

void gather_rows(const Embedding& p, int64_t first, int64_t last) {
    const int64_t C = p.y.shape[1];
    const int32_t* ids = p.ids.as<int32_t>();
    for (int64_t r = first; r < last; ++r)
        if (p.table.dtype == DType::bf16)
            widen_row(p.table.at<uint16_t>(ids[r]), p.y.at<float>(r), C);
        else
            std::memcpy(p.y.at<float>(r), p.table.at<float>(ids[r]), sizeof(float) * C);
}

// Rows of the table are far apart and their order is known: ask for them some additions ahead.
constexpr int64_t kAhead = 8;

void scatter_columns(const EmbeddingBackward& p, int64_t first, int64_t n) {
    const int64_t R = p.d_y.shape[0];
    const int32_t* ids = p.ids.as<int32_t>();
    for (int64_t r = 0; r < R; ++r) {
        if (r + kAhead < R) {
            hwy::Prefetch(p.d_table.at<float>(ids[r + kAhead]) + first);
            hwy::Prefetch(p.d_y.at<float>(r + kAhead) + first);
        }
        const float* from = p.d_y.at<float>(r) + first;
        float* to = p.d_table.at<float>(ids[r]) + first;
        for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::Add(load(to), load(from)), to); });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(gather_rows);
HWY_EXPORT(scatter_columns);

namespace {

Status forward(const Embedding& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.y.shape[0], p.y.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(gather_rows)(p, first, last);
    });
    return {};
}

// Tasks own columns, not rows: each walks all rows in order, so equal ids add up in ascending r without atomics, and a
// frequent id (the mask token: half of all rows) does not make one task longer than the others. 64 floats are four
// cache lines, enough for the prefetcher and few enough for 16 tasks at C = 1024.
constexpr int64_t kColumns = 64;

Status backward(const EmbeddingBackward& p, const Stream& stream, Workspace) {
    const int64_t C = p.d_y.shape[1];
    parallel_for(stream, ceil_div(C, kColumns), [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(scatter_columns)(p, i * kColumns, std::min(kColumns, C - i * kColumns));
    });
    return {};
}

}  // namespace

Op<Embedding> embedding_entry() {
    return {forward, nullptr};
}
Op<EmbeddingBackward> embedding_backward_entry() {
    return {backward, nullptr};
}

}  // namespace noema::cpu
#endif
