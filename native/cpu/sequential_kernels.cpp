// What sequential_inverse computes beside products: attention of one query per head over its cache. Unlike the op attention, which
// packs keys for many queries, it reads each key and value once, as it lies. A few queries at once add up as one alone does.
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

// Kept numbers: float, or uint16_t for bf16.
HWY_INLINE VF load_kept(const float* p) {
    return hn::LoadU(DF(), p);
}
HWY_INLINE VF load_kept(const uint16_t* p) {
    const hn::RebindToUnsigned<DF> du;
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(hn::Rebind<uint16_t, DF>(), p))));
}
HWY_INLINE void store_kept(VF v, float* p) {
    hn::StoreU(v, DF(), p);
}
HWY_INLINE void store_kept(VF v, uint16_t* p) {
    const hn::RebindToUnsigned<DF> du;
    const hn::Rebind<uint16_t, DF> dh;
    hn::StoreU(hn::TruncateTo(dh, hn::ShiftRight<16>(hn::BitCast(du, v))), dh, p);
}

template <class T>
void keep(const KeptRows& r, T* to) {
    const DF d;
    const int64_t padded = padded_head(r.D);
    for (int64_t i = 0; i < r.count; ++i, to += padded)
        for (int64_t c = 0; c < padded; c += kLanes) {
            const float* from = r.rows + i * r.stride + c;
            const int64_t left = r.D - c;
            const VF v = left >= kLanes ? hn::LoadU(d, from)
                         : left > 0     ? load_n(d, from, static_cast<size_t>(left))
                                        : hn::Zero(d);
            store_kept(r.rounding ? round_to_bf16(v) : v, to + c);
        }
}

void keep_rows_of(const KeptRows& r, void* to) {
    if (r.rounding)
        keep(r, static_cast<uint16_t*>(to));
    else
        keep(r, static_cast<float*>(to));
}

void keep_queries_of(const KeptRows& r, float* to) {
    keep(r, to);
}

void enter_caches(const CachedHead& h) {
    const int64_t D = h.reading.D;
    const bool rounding = h.reading.rounding;
    turn(h.q, h.angles, h.query, D / 2);
    turn(h.k, h.angles, h.key, D / 2);
    std::memcpy(h.value, h.v, sizeof(float) * static_cast<size_t>(D));
    if (rounding) {
        round_values(h.key, D);
        round_values(h.value, D);
    }
    keep_queries_of({h.query, D, 1, D, rounding}, h.query);
    keep_rows_of({h.key, D, 1, D, rounding}, h.kept_key);
    keep_rows_of({h.value, D, 1, D, rounding}, h.kept_value);
}

/// Q queries at once; keys and values are T.
template <int Q, class T>
class Attending {
 public:
    explicit HWY_INLINE Attending(const HeadQueries& h)
        : h_(h),
          keys_(static_cast<const T*>(h.keys)),
          values_(static_cast<const T*>(h.values)),
          next_keys_(static_cast<const T*>(h.next_keys)),
          next_values_(static_cast<const T*>(h.next_values)),
          padded_(padded_head(h.D)),
          most_seen_(h.seen(Q - 1)),
          pitch_(room_for_weights(most_seen_)) {}

    HWY_INLINE void run() const {
        VF most[Q];
        score(most);
        float factors[Q];
        for (int q = 0; q < Q; ++q) factors[q] = 1.0f / soften(h_.weights + q * pitch_, most[q]);
        int64_t c = 0;
        for (; c + kWide * kLanes <= padded_; c += kWide * kLanes) weigh_values<kWide>(c, factors);
        for (; c < padded_; c += kLanes) weigh_values<1>(c, factors);
    }

 private:
    static constexpr int kWide = Q == 1 ? 4 : 2;  // vectors of a value at once

    /// A line that the next head reads where this one reads place `at`: with arithmetic in between, the caches have time to deliver.
    static HWY_INLINE void fetch_for_next(const T* next, int64_t at) {
        if constexpr (Q == 1)
            if (at * static_cast<int64_t>(sizeof(T)) % 64 == 0) __builtin_prefetch(next + at, 0, 2);
    }

    /// queries · keys j .. j+3, each a sum over lanes; the last key stands for those beyond.
    HWY_INLINE void multiply_keys(int64_t j, VF (&sums)[Q][4]) const {
        int64_t key[4];
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            key[i] = std::min(j + i, most_seen_ - 1) * padded_;
            HWY_UNROLL(4)
            for (int q = 0; q < Q; ++q) sums[q][i] = hn::Zero(DF());
        }
        for (int64_t c = 0; c < padded_; c += kLanes) {
            VF query[Q];
            HWY_UNROLL(4)
            for (int q = 0; q < Q; ++q) query[q] = hn::LoadU(DF(), h_.queries + q * padded_ + c);
            HWY_UNROLL(4)
            for (int i = 0; i < 4; ++i) {
                fetch_for_next(next_keys_, key[i] + c);
                const VF k = load_kept(keys_ + key[i] + c);
                HWY_UNROLL(4)
                for (int q = 0; q < Q; ++q) sums[q][i] = hn::MulAdd(query[q], k, sums[q][i]);
            }
        }
    }

    /// Scores of keys [j, j + lanes of d); of those that nobody sees, whatever.
#if HWY_TARGET == HWY_SCALAR
    HWY_INLINE void scores_from(DF, int64_t j, VF (&scores)[Q]) const {
        VF sums[Q][4];
        multiply_keys(j, sums);
        for (int q = 0; q < Q; ++q) scores[q] = sums[q][0];
    }
#else
    template <class D>
    HWY_INLINE void scores_from(D d, int64_t j, hn::Vec<D> (&scores)[Q]) const {
        if constexpr (hn::MaxLanes(D()) > 4) {
            const hn::Half<D> half;
            const int64_t middle = j + static_cast<int64_t>(hn::MaxLanes(half));
            hn::Vec<hn::Half<D>> lower[Q], upper[Q];
            scores_from(half, j, lower);
            HWY_UNROLL(4)
            for (int q = 0; q < Q; ++q) upper[q] = hn::Zero(half);
            if (middle < most_seen_) scores_from(half, middle, upper);
            HWY_UNROLL(4)
            for (int q = 0; q < Q; ++q) scores[q] = hn::Combine(d, upper[q], lower[q]);
        } else {
            VF sums[Q][4];
            multiply_keys(j, sums);
            HWY_UNROLL(4)
            for (int q = 0; q < Q; ++q) scores[q] = folded_four(sums[q], Plus());
        }
    }
#endif

    /// weights[q][j] = query q · key j, -inf where it does not see it; most[q] is the largest of each lane. A vector is stored whole:
    /// one that is made of pieces is not there to be loaded until all of them have left the core.
    HWY_INLINE void score(VF (&most)[Q]) const {
        const DF d;
        const VF least = hn::Set(d, -HUGE_VALF);
        for (int q = 0; q < Q; ++q) most[q] = least;
        for (int64_t j = 0; j < pitch_; j += kLanes) {
            VF scores[Q];
            for (int q = 0; q < Q; ++q) scores[q] = least;
            if (j < most_seen_) scores_from(d, j, scores);
            HWY_UNROLL(4)
            for (int q = 0; q < Q; ++q) {
                const auto inside = static_cast<size_t>(std::clamp<int64_t>(h_.seen(q) - j, 0, kLanes));
                const VF s = hn::IfThenElse(hn::FirstN(d, inside), scores[q], least);
                most[q] = hn::Max(most[q], s);
                hn::Store(s, d, h_.weights + q * pitch_ + j);
            }
        }
    }

    /// Scores become exp(scale (score - most)); their sum is that of the weights before they are rounded, as in attention.
    HWY_INLINE float soften(float* weights, VF most) const {
        const DF d;
        VF sum = hn::Zero(d);
        const VF top = hn::MaxOfLanes(d, most), scale = hn::Set(d, h_.scale);
        for (int64_t j = 0; j < pitch_; j += kLanes) {
            const VF w = exp_nonpositive(hn::Mul(hn::Sub(hn::Load(d, weights + j), top), scale));
            sum = hn::Add(sum, w);
            hn::Store(h_.rounding ? round_to_bf16(w) : w, d, weights + j);
        }
        return sum_of(sum);
    }

    /// What a query has of V vectors of the values: two chains per vector, of even and of odd keys.
    template <int V>
    struct Weighed {
        VF even[V], odd[V];
    };

    /// Columns [c, c + V vectors) of out.
    template <int V>
    HWY_INLINE void weigh_values(int64_t c, const float (&factors)[Q]) const {
        const DF d;
        Weighed<V> sums[Q];
        HWY_UNROLL(4)
        for (int q = 0; q < Q; ++q) {
            HWY_UNROLL(4)
            for (int v = 0; v < V; ++v) sums[q].even[v] = sums[q].odd[v] = hn::Zero(d);
        }
        int64_t j = 0, at = c;
        for (const int64_t all_see = h_.seen(0); j + 2 <= all_see; j += 2, at += 2 * padded_) {
            HWY_UNROLL(4)
            for (int v = 0; v < V; ++v) {
                const int64_t even = at + v * kLanes, odd = even + padded_;
                fetch_for_next(next_values_, even);
                fetch_for_next(next_values_, odd);
                const VF value = load_kept(values_ + even), next = load_kept(values_ + odd);
                HWY_UNROLL(4)
                for (int q = 0; q < Q; ++q) {
                    const float* weights = h_.weights + q * pitch_ + j;
                    sums[q].even[v] = hn::MulAdd(hn::Set(d, weights[0]), value, sums[q].even[v]);
                    sums[q].odd[v] = hn::MulAdd(hn::Set(d, weights[1]), next, sums[q].odd[v]);
                }
            }
        }
        HWY_UNROLL(4)
        for (int q = 0; q < Q; ++q) {
            weigh_own(q, j, at, sums[q]);
            HWY_UNROLL(4)
            for (int v = 0; v < V; ++v)
                put(hn::Mul(hn::Add(sums[q].even[v], sums[q].odd[v]), hn::Set(d, factors[q])), q, c + v * kLanes);
        }
    }

    /// What not all queries see, from the even key j on: a weight of nothing would not hide a value that is no number.
    template <int V>
    HWY_INLINE void weigh_own(int64_t q, int64_t j, int64_t at, Weighed<V>& sums) const {
        const DF d;
        const float* weights = h_.weights + q * pitch_;
        const int64_t seen = h_.seen(q);
        for (; j < seen; j += 2, at += 2 * padded_) {
            HWY_UNROLL(4)
            for (int v = 0; v < V; ++v) {
                const T* value = values_ + at + v * kLanes;
                sums.even[v] = hn::MulAdd(hn::Set(d, weights[j]), load_kept(value), sums.even[v]);
                if (j + 1 < seen)
                    sums.odd[v] = hn::MulAdd(hn::Set(d, weights[j + 1]), load_kept(value + padded_), sums.odd[v]);
            }
        }
    }

    HWY_INLINE void put(VF v, int64_t q, int64_t c) const {
        float* to = h_.out + q * h_.out_stride + c;
        if (c + kLanes <= h_.D)
            hn::StoreU(v, DF(), to);
        else if (c < h_.D)
            store_n(v, DF(), to, static_cast<size_t>(h_.D - c));
    }

    const HeadQueries& h_;
    const T *keys_, *values_, *next_keys_, *next_values_;
    const int64_t padded_, most_seen_;
    const int64_t pitch_;  // of weights
};

template <int Q>
void attend_some(const HeadQueries& h) {
    if (h.rounding)
        Attending<Q, uint16_t>(h).run();
    else
        Attending<Q, float>(h).run();
}

void attend_of(const HeadQueries& h) {
    constexpr int kAtOnce = kLanes < 16 ? 2 : kQueriesAtOnce;  // as many as the registers hold sums of
    HeadQueries part = h;
    const auto go_on = [&](int64_t count) {
        part.queries += count * padded_head(h.D);
        part.out += count * h.out_stride;
        part.first += count;
        part.count -= count;
    };
    for (; part.count >= kAtOnce; go_on(kAtOnce)) attend_some<kAtOnce>(part);
    for (; part.count > 0; go_on(1)) attend_some<1>(part);
}

void attend_newest_of(const CachedHead& h) {
    enter_caches(h);
    attend_some<1>(h.reading);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {
HWY_EXPORT(attend_of);
HWY_EXPORT(attend_newest_of);
HWY_EXPORT(keep_rows_of);
HWY_EXPORT(keep_queries_of);
HWY_EXPORT(round_values);
}  // namespace

void attend(const HeadQueries& queries) {
    HWY_DYNAMIC_DISPATCH(attend_of)(queries);
}

void attend_newest(const CachedHead& head) {
    HWY_DYNAMIC_DISPATCH(attend_newest_of)(head);
}

void keep_rows(const KeptRows& rows, void* to) {
    HWY_DYNAMIC_DISPATCH(keep_rows_of)(rows, to);
}

void keep_queries(const KeptRows& rows, float* to) {
    HWY_DYNAMIC_DISPATCH(keep_queries_of)(rows, to);
}

void round_row(float* x, int64_t n) {
    HWY_DYNAMIC_DISPATCH(round_values)(x, n);
}

}  // namespace noema::cpu
#endif
