// reorder and its backward are one loop over the rows they write: each row is a row of the source with its channels moved, or
// `first`, or nothing.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reorder.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

#ifndef NOEMA_CPU_REORDER
#define NOEMA_CPU_REORDER
namespace noema::cpu {

struct Move {
    View from, to;
    const float* first;  // forward's, or null
    ChannelOrder order;  // how channels move from `from` to `to`
    bool reverse, backward, accumulate;
    int64_t late;  // positions by which y is behind x

    /// The row that goes to [b,t] of `to`; null: nothing does.
    const float* source(int64_t b, int64_t t) const {
        const int64_t S = to.shape[1], turned = reverse ? S - 1 - t : t;
        if (backward) return turned + late < S ? from.at<float>(b, turned + late) : nullptr;
        if (t < late) return first;
        return from.at<float>(b, reverse ? turned + late : t - late);
    }
};

}  // namespace noema::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// As they are.
template <bool accumulate>
HWY_INLINE void copy_channels(const float* from, float* to, int64_t c) {
    for_each_vector(c, [&](auto load, auto store, int64_t)
                           HWY_ATTR { store(accumulate ? hn::Add(load(from), load(to)) : load(from), to); });
}

#if HWY_TARGET == HWY_SCALAR  // vectors of one

template <bool accumulate>
HWY_INLINE void put(float value, float* to) {
    *to = accumulate ? *to + value : value;
}

template <bool accumulate>
HWY_INLINE void split_channels(const float* from, float* to, int64_t c) {
    for (int64_t k = 0; k < c; ++k) put<accumulate>(from[k], to + (k % 2 ? (c + 1) / 2 : 0) + k / 2);
}

template <bool accumulate>
HWY_INLINE void merge_channels(const float* from, float* to, int64_t c) {
    for (int64_t k = 0; k < c; ++k) put<accumulate>(from[(k % 2 ? (c + 1) / 2 : 0) + k / 2], to + k);
}

#else

template <bool accumulate>
HWY_INLINE void put_n(VF v, float* to, int64_t n) {
    const DF d;
    const size_t count = static_cast<size_t>(n);
    if constexpr (accumulate) v = hn::Add(v, load_n(d, to, count));
    store_n(v, d, to, count);
}

/// The even-indexed, then the odd-indexed: two vectors of neighbours give one of either.
template <bool accumulate>
HWY_INLINE void split_channels(const float* from, float* to, int64_t c) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d)), evens = (c + 1) / 2;
    for (int64_t i = 0; i < c; i += 2 * L) {
        const int64_t n = std::min(c - i, 2 * L), rest = std::max<int64_t>(n - L, 0);
        const VF low = load_n(d, from + i, static_cast<size_t>(std::min(n, L)));
        const VF high = rest ? load_n(d, from + i + L, static_cast<size_t>(rest)) : hn::Zero(d);
        put_n<accumulate>(hn::ConcatEven(d, high, low), to + i / 2, (n + 1) / 2);
        put_n<accumulate>(hn::ConcatOdd(d, high, low), to + evens + i / 2, n / 2);
    }
}

/// What undoes split_channels: a vector takes half of its channels from either half of the row.
template <bool accumulate>
HWY_INLINE void merge_channels(const float* from, float* to, int64_t c) {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d)), evens = (c + 1) / 2;
    const auto halved = hn::IndicesFromVec(d, hn::ShiftRight<1>(hn::Iota(di, 0)));
    for (int64_t i = 0; i < c; i += L) {
        const int64_t n = std::min(c - i, L);
        const VF even = load_n(d, from + i / 2, static_cast<size_t>((n + 1) / 2));
        const VF odd = load_n(d, from + evens + i / 2, static_cast<size_t>(n / 2));
        const VF both = hn::OddEven(hn::TableLookupLanes(odd, halved), hn::TableLookupLanes(even, halved));
        put_n<accumulate>(both, to + i, n);
    }
}

#endif

template <bool accumulate>
void move_channels(ChannelOrder order, const float* from, float* to, int64_t c) {
    switch (order) {
        case ChannelOrder::as_is: return copy_channels<accumulate>(from, to, c);
        case ChannelOrder::even_odd: return split_channels<accumulate>(from, to, c);
        case ChannelOrder::interleave: return merge_channels<accumulate>(from, to, c);
    }
}

/// Rows [first, last) of `to`, its sequences end to end.
void move_rows(const Move& m, int64_t first, int64_t last) {
    const int64_t S = m.to.shape[1], c = m.to.shape[2];
    int64_t b = first / S, t = first % S;
    for (int64_t r = first; r < last; ++r, ++t) {
        if (t == S) ++b, t = 0;
        float* to = m.to.at<float>(b, t);
        const float* from = m.source(b, t);
        if (!from) {
            if (!m.accumulate) std::fill_n(to, c, 0.0f);
            continue;
        }
        const ChannelOrder order = from == m.first ? ChannelOrder::as_is : m.order;
        m.accumulate ? move_channels<true>(order, from, to, c) : move_channels<false>(order, from, to, c);
    }
}

/// to += the first rows of all sequences, in their order.
void add_first_rows(const View& d_y, float* to) {
    for_each_vector(d_y.shape[2], [&](auto load, auto store, int64_t) HWY_ATTR {
        VF sum = hn::Zero(DF());
        for (int64_t b = 0; b < d_y.shape[0]; ++b) sum = hn::Add(sum, load(d_y.at<float>(b)));
        store(hn::Add(load(to), sum), to);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(move_rows);
HWY_EXPORT(add_first_rows);

namespace {

void move(const Move& m, const Stream& stream) {
    parallel_rows(stream, m.to.shape[0] * m.to.shape[1], m.to.shape[2], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(move_rows)(m, first, last);
    });
}

ChannelOrder undone(ChannelOrder order) {
    switch (order) {
        case ChannelOrder::as_is: break;
        case ChannelOrder::even_odd: return ChannelOrder::interleave;
        case ChannelOrder::interleave: return ChannelOrder::even_odd;
    }
    return order;
}

int64_t source_channel(ChannelOrder order, int64_t k, int64_t c) {
    const int64_t evens = (c + 1) / 2;
    switch (order) {
        case ChannelOrder::as_is: break;
        case ChannelOrder::even_odd: return k < evens ? 2 * k : 2 * (k - evens) + 1;
        case ChannelOrder::interleave: return k % 2 == 0 ? k / 2 : evens + k / 2;
    }
    return k;
}

/// Rows [first, last) of y where a state is wide: element by element, for they are few.
template <class From, class To>
void move_wide_rows(const Reorder& p, int64_t first, int64_t last) {
    const int64_t S = p.y.shape[1], c = p.y.shape[2];
    for (int64_t r = first; r < last; ++r) {
        const int64_t b = r / S, s = r % S, late = p.first ? s - 1 : s;
        To* to = p.y.at<To>(b, s);
        if (late < 0) {
            std::copy_n(p.first.as<const float>(), c, to);
            continue;
        }
        const From* from = p.x.at<const From>(b, p.reverse ? S - 1 - late : late);
        for (int64_t k = 0; k < c; ++k) to[k] = static_cast<To>(from[source_channel(p.channels, k, c)]);
    }
}

Status forward(const Reorder& p, const Stream& stream, Workspace) {
    const bool from_wide = p.x.dtype == DType::f64, to_wide = p.y.dtype == DType::f64;
    if (from_wide || to_wide) {
        const auto move_some = !to_wide    ? move_wide_rows<double, float>
                               : from_wide ? move_wide_rows<double, double>
                                           : move_wide_rows<float, double>;
        parallel_rows(stream, p.y.shape[0] * p.y.shape[1], p.y.shape[2],
                      [&](int64_t first, int64_t last) { move_some(p, first, last); });
        return {};
    }
    move({.from = p.x,
          .to = p.y,
          .first = p.first.as<float>(),
          .order = p.channels,
          .reverse = p.reverse,
          .backward = false,
          .accumulate = false,
          .late = p.first ? 1 : 0},
         stream);
    return {};
}

Status backward(const ReorderBackward& p, const Stream& stream, Workspace) {
    move({.from = p.d_y,
          .to = p.d_x,
          .first = nullptr,
          .order = undone(p.channels),
          .reverse = p.reverse,
          .backward = true,
          .accumulate = p.accumulate_x,
          .late = p.d_first ? 1 : 0},
         stream);
    if (p.d_first && p.d_y.shape[1] > 0) HWY_DYNAMIC_DISPATCH(add_first_rows)(p.d_y, p.d_first.as<float>());
    return {};
}

}  // namespace

Op<Reorder> reorder_entry() {
    return {forward, nullptr};
}
Op<ReorderBackward> reorder_backward_entry() {
    return {backward, nullptr};
}

}  // namespace noema::cpu
#endif
