// What sequential_inverse computes beside packed products: attention of one query per head over its cache, and products with
// matrices that are too small to be packed. Unlike the op attention, which packs keys for many queries, it reads each key
// and value once, as it lies.
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
constexpr int64_t kMostLanes = 16;

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

/// weights[j] = query · key j. Four keys at a time: their sums over lanes become one.
void score(const CachedHead& h, int64_t n) {
    for (int64_t j = 0; j < n; j += 4) {
        const float* key[4];
        VF sums[4];
        float four[4];
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            key[i] = h.keys + std::min(j + i, n - 1) * h.stride;
            sums[i] = hn::Zero(DF());
        }
        for_each_vector(h.D, [&](auto load, auto, int64_t) HWY_ATTR {
            const VF q = load(h.query);
            HWY_UNROLL(4)
            for (int i = 0; i < 4; ++i) sums[i] = hn::MulAdd(q, load(key[i]), sums[i]);
        });
        fold_four(sums, Plus(), four);
        std::memcpy(h.weights + j, four, sizeof(float) * static_cast<size_t>(std::min<int64_t>(4, n - j)));
    }
}

/// Scores become exp(scale (score - most)); their sum is that of the weights before they are rounded, as in attention.
float soften(const CachedHead& h, int64_t n) {
    const DF d;
    const int64_t whole = room_for_weights(n);
    std::fill(h.weights + n, h.weights + whole, -HUGE_VALF);
    VF most = hn::Set(d, -HUGE_VALF), sum = hn::Zero(d);
    for (int64_t j = 0; j < whole; j += kLanes) most = hn::Max(most, hn::Load(d, h.weights + j));
    const VF top = hn::Set(d, max_of(most)), scale = hn::Set(d, h.scale);
    for (int64_t j = 0; j < whole; j += kLanes) {
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

void attend(const CachedHead& h) {
    const int64_t n = h.position + 1;
    enter_caches(h);
    score(h, n);
    const float factor = 1.0f / soften(h, n);
    int64_t c = 0;
    for (; c + 4 * kLanes <= h.D; c += 4 * kLanes) weigh_values<4>(h, n, c, factor);
    for (; c + kLanes <= h.D; c += kLanes) weigh_values<1>(h, n, c, factor);
    if (c < h.D) weigh_rest(h, n, c, factor);
}

HWY_INLINE VF load_row(const float* p) {
    return hn::LoadU(DF(), p);
}
HWY_INLINE VF load_row(const uint16_t* p) {  // bf16, the upper half of an f32
    const hn::Rebind<uint16_t, DF> dh;
    const hn::RebindToUnsigned<DF> du;
    return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, p))));
}

HWY_INLINE VF load_rest(const float* p, int64_t n) {
    return load_n(DF(), p, static_cast<size_t>(n));
}
HWY_INLINE VF load_rest(const uint16_t* p, int64_t n) {
    alignas(64) uint16_t rest[kMostLanes] = {};
    std::memcpy(rest, p, sizeof(uint16_t) * static_cast<size_t>(n));
    return load_row(rest);
}

/// Four rows of the weight, read once, times S of x: rows [r, r + 4) of sequences [b, b + S). Sums over lanes as for keys above.
template <int S, class T>
HWY_INLINE void multiply_four(const RowProducts& p, int64_t r, int64_t b) {
    const int64_t whole = p.K / kLanes * kLanes;
    const T* row[4];
    const float* x = p.x + b * p.x_pitch;
    VF sums[S][4];
    for (int i = 0; i < 4; ++i) row[i] = reinterpret_cast<const T*>(p.weight) + std::min(r + i, p.rows - 1) * p.pitch;
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sums[s][i] = hn::Zero(DF());
    const auto add = [&](const auto& load_w, const auto& load_x, int64_t k) HWY_ATTR {
        VF w[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) w[i] = load_w(row[i] + k);
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) {
            const VF v = load_x(x + s * p.x_pitch + k);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) sums[s][i] = hn::MulAdd(v, w[i], sums[s][i]);
        }
    };
    const auto load = [](const auto* q) HWY_ATTR { return load_row(q); };
    const auto load_last = [=, &p](const auto* q) HWY_ATTR { return load_rest(q, p.K - whole); };
    for (int64_t k = 0; k < whole; k += kLanes) add(load, load, k);
    if (whole < p.K) add(load_last, load_last, whole);
    for (int s = 0; s < S; ++s) {
        const float* start = p.start + (b + s) * p.start_pitch + r;
        float* y = p.y + (b + s) * p.y_pitch + r;
        float four[4];
        fold_four(sums[s], Plus(), four);
        for (int64_t i = 0; i < std::min<int64_t>(4, p.rows - r); ++i) y[i] = start[i] + four[i];
    }
}

/// Sums of 4 x 4 or 4 x 2 leave registers for their factors.
constexpr int kSequences = kLanes == 16 ? 4 : 2;

/// Four rows stay in the first-level cache while the sequences pass by.
template <class T>
void multiply_rows_of(const RowProducts& p) {
    for (int64_t r = 0; r < p.rows; r += 4) {
        int64_t b = 0;
        for (; b + kSequences <= p.sequences; b += kSequences) multiply_four<kSequences, T>(p, r, b);
        for (; b < p.sequences; ++b) multiply_four<1, T>(p, r, b);
    }
}

void multiply_rows(const RowProducts& p) {
    if (p.dtype == DType::bf16)
        multiply_rows_of<uint16_t>(p);
    else
        multiply_rows_of<float>(p);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {
HWY_EXPORT(attend);
HWY_EXPORT(round_values);
HWY_EXPORT(multiply_rows);
}  // namespace

void attend_newest(const CachedHead& head) {
    HWY_DYNAMIC_DISPATCH(attend)(head);
}

void round_row(float* x, int64_t n) {
    HWY_DYNAMIC_DISPATCH(round_values)(x, n);
}

void multiply_rows_by(const RowProducts& p) {
    HWY_DYNAMIC_DISPATCH(multiply_rows)(p);
}

}  // namespace noema::cpu
#endif
