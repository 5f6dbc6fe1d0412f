// What sequential_inverse computes beside products: attention of one query per head over its cache. Unlike the op attention, which
// packs keys for many queries, it reads each key and value once, as it lies.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/sequential_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/fold-inl.h"
#include "cpu/sequential_inverse.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));

void turn(const float* x, const float* angles, float* y, int64_t P) {
    for_each_vector(P, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF a = load(x), b = load(x + P), c = load(angles), s = load(angles + P);
        store(hn::NegMulAdd(b, s, hn::Mul(a, c)), y);
        store(hn::MulAdd(a, s, hn::Mul(b, c)), y + P);
    });
}

void round_values(float* x, int64_t n) {
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR { store(round_to_bf16(load(x)), x); });
}

void enter_caches(const CachedHead& h) {
    float *key = h.keys + h.position * h.stride, *value = h.values + h.position * h.stride;
    turn(h.q, h.angles, h.query, h.D / 2);
    turn(h.k, h.angles, key, h.D / 2);
    std::memcpy(value, h.v, sizeof(float) * static_cast<size_t>(h.D));
    if (!h.rounding) return;
    round_values(h.query, h.D);
    round_values(key, h.D);
    round_values(value, h.D);
}

/// A line that the next head reads where this one reads `from_first`: with arithmetic in between, the caches have time to deliver.
HWY_INLINE void fetch_for_next(const float* next, int64_t from_first) {
    __builtin_prefetch(next + from_first, 0, 2);
}

/// query · keys j .. j+3, each a sum over lanes; the last key stands for those beyond.
HWY_INLINE void multiply_keys(const CachedHead& h, int64_t n, int64_t j, VF (&sums)[4]) {
    const float* key[4];
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
        key[i] = h.keys + std::min(j + i, n - 1) * h.stride;
        sums[i] = hn::Zero(DF());
    }
    for_each_vector(h.D, [&](auto load, auto, int64_t c) HWY_ATTR {
        const VF q = load(h.query);
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            fetch_for_next(h.next_keys, key[i] - h.keys + c);
            sums[i] = hn::MulAdd(q, load(key[i]), sums[i]);
        }
    });
}

/// Scores of keys [j, j + lanes of d); of those behind n, whatever.
#if HWY_TARGET == HWY_SCALAR
HWY_INLINE VF scores_from(DF, const CachedHead& h, int64_t n, int64_t j) {
    VF sums[4];
    multiply_keys(h, n, j, sums);
    return sums[0];
}
#else
template <class D>
HWY_INLINE hn::Vec<D> scores_from(D d, const CachedHead& h, int64_t n, int64_t j) {
    if constexpr (hn::MaxLanes(D()) > 4) {
        const hn::Half<D> half;
        const int64_t middle = j + static_cast<int64_t>(hn::MaxLanes(half));
        const auto lower = scores_from(half, h, n, j);
        return hn::Combine(d, middle < n ? scores_from(half, h, n, middle) : hn::Zero(half), lower);
    } else {
        VF sums[4];
        multiply_keys(h, n, j, sums);
        return folded_four(sums, Plus());
    }
}
#endif

/// weights[j] = query · key j, -inf behind n; gives the largest of each lane. A vector is stored whole: one that is made of pieces is
/// not there to be loaded until all of them have left the core.
HWY_INLINE VF score(const CachedHead& h, int64_t n) {
    const DF d;
    const VF least = hn::Set(d, -HUGE_VALF);
    VF most = least;
    for (int64_t j = 0; j < room_for_weights(n); j += kLanes) {
        const VF inside = j < n ? scores_from(d, h, n, j) : least;
        const VF s =
            hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(n - j, 0, kLanes))), inside, least);
        most = hn::Max(most, s);
        hn::Store(s, d, h.weights + j);
    }
    return most;
}

/// Scores become exp(scale (score - most)); their sum is that of the weights before they are rounded, as in attention.
HWY_INLINE float soften(const CachedHead& h, int64_t n, VF most) {
    const DF d;
    VF sum = hn::Zero(d);
    const VF top = hn::MaxOfLanes(d, most), scale = hn::Set(d, h.scale);
    for (int64_t j = 0; j < room_for_weights(n); j += kLanes) {
        const VF w = exp_nonpositive(hn::Mul(hn::Sub(hn::Load(d, h.weights + j), top), scale));
        sum = hn::Add(sum, w);
        hn::Store(h.rounding ? round_to_bf16(w) : w, d, h.weights + j);
    }
    return sum_of(sum);
}

/// Columns [c, c + V vectors) of out: two chains per vector.
template <int V>
HWY_INLINE void weigh_values(const CachedHead& h, int64_t n, int64_t c, float factor) {
    const DF d;
    VF even[V], odd[V];
    HWY_UNROLL(4)
    for (int i = 0; i < V; ++i) even[i] = odd[i] = hn::Zero(d);
    const float* row = h.values + c;
    int64_t j = 0;
    for (; j + 2 <= n; j += 2, row += 2 * h.stride) {
        const VF w0 = hn::Set(d, h.weights[j]), w1 = hn::Set(d, h.weights[j + 1]);
        HWY_UNROLL(4)
        for (int i = 0; i < V; ++i) {
            fetch_for_next(h.next_values, row - h.values + i * kLanes);
            fetch_for_next(h.next_values, row - h.values + h.stride + i * kLanes);
            even[i] = hn::MulAdd(w0, hn::LoadU(d, row + i * kLanes), even[i]);
            odd[i] = hn::MulAdd(w1, hn::LoadU(d, row + h.stride + i * kLanes), odd[i]);
        }
    }
    const VF last = hn::Set(d, j < n ? h.weights[j] : 0.0f), f = hn::Set(d, factor);
    HWY_UNROLL(4)
    for (int i = 0; i < V; ++i) {
        if (j < n) even[i] = hn::MulAdd(last, hn::LoadU(d, row + i * kLanes), even[i]);
        hn::StoreU(hn::Mul(hn::Add(even[i], odd[i]), f), d, h.out + c + i * kLanes);
    }
}

/// The columns from c on, less than a vector.
void weigh_rest(const CachedHead& h, int64_t n, int64_t c, float factor) {
    const DF d;
    const size_t rest = static_cast<size_t>(h.D - c);
    VF sum = hn::Zero(d);
    for (int64_t j = 0; j < n; ++j)
        sum = hn::MulAdd(hn::Set(d, h.weights[j]), load_n(d, h.values + c + j * h.stride, rest), sum);
    store_n(hn::Mul(sum, hn::Set(d, factor)), d, h.out + c, rest);
}

void attend_query_of(const CachedHead& h) {
    const int64_t n = h.position + 1;
    const float factor = 1.0f / soften(h, n, score(h, n));
    int64_t c = 0;
    for (; c + 4 * kLanes <= h.D; c += 4 * kLanes) weigh_values<4>(h, n, c, factor);
    for (; c + kLanes <= h.D; c += kLanes) weigh_values<1>(h, n, c, factor);
    if (c < h.D) weigh_rest(h, n, c, factor);
}

void attend(const CachedHead& h) {
    enter_caches(h);
    attend_query_of(h);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {
HWY_EXPORT(attend);
HWY_EXPORT(attend_query_of);
HWY_EXPORT(round_values);
}  // namespace

void attend_newest(const CachedHead& head) {
    HWY_DYNAMIC_DISPATCH(attend)(head);
}

void attend_query(const CachedHead& head) {
    HWY_DYNAMIC_DISPATCH(attend_query_of)(head);
}

void round_row(float* x, int64_t n) {
    HWY_DYNAMIC_DISPATCH(round_values)(x, n);
}

}  // namespace noema::cpu
#endif
