#include "cpu/head_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/head_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/random-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

HWY_INLINE VF load_or(const float* p, int64_t n, float beyond) {
    const DF d;
    if (n >= static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, p);
    const size_t rest = static_cast<size_t>(HWY_MAX(n, 0));
    return hn::IfThenElse(hn::FirstN(d, rest), load_n(d, p, rest), hn::Set(d, beyond));
}

void find_peak_in(const float* x, int64_t n, Peak& peak) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    VF max[4];
    for (VF& m : max) m = hn::Set(d, -HUGE_VALF);
    auto nan = hn::Ne(max[0], max[0]);
    for (int64_t i = 0; i < n; i += 4 * L)
        for (int64_t k = 0; k < 4; ++k) {
            if (i + k * L >= n) break;
            const VF v = load_or(x + i + k * L, n - i - k * L, -HUGE_VALF);
            nan = hn::Or(nan, hn::Ne(v, v));
            max[k] = hn::Max(max[k], v);
        }
    peak.nan = !hn::AllFalse(d, nan);
    peak.groups = static_cast<int>(4 * L);
    for (int64_t k = 0; k < 4; ++k) hn::StoreU(max[k], d, peak.group_max + k * L);
    peak.max = max_of(hn::Max(hn::Max(max[0], max[1]), hn::Max(max[2], max[3])));
}

// Two chains of sums, so that the latency of one addition does not pace the loop.
template <class Term>
HWY_INLINE void in_pairs(const float* x, int64_t n, const Term& term) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF()));
    for (int64_t i = 0; i < n; i += 2 * L) {
        term(load_or(x + i, n - i, -HUGE_VALF), 0);
        if (i + L < n) term(load_or(x + i + L, n - i - L, -HUGE_VALF), 1);
    }
}

float exp_sum_of(const float* x, int64_t n, float max) {
    const VF m = hn::Set(DF(), max);
    VF sum[2] = {hn::Zero(DF()), hn::Zero(DF())};
    in_pairs(x, n, [&](VF v, int k) HWY_ATTR { sum[k] = hn::Add(sum[k], exp_nonpositive(hn::Sub(v, m))); });
    return sum_of(hn::Add(sum[0], sum[1]));
}

ExpSums exp_sums_of(const float* x, int64_t n, float max) {
    const DF d;
    const VF m = hn::Set(d, max);
    VF sum[2] = {hn::Zero(d), hn::Zero(d)}, weighted[2] = {hn::Zero(d), hn::Zero(d)};
    in_pairs(x, n, [&](VF v, int k) HWY_ATTR {
        const VF t = hn::Sub(v, m), e = exp_nonpositive(t);
        sum[k] = hn::Add(sum[k], e);
        weighted[k] = hn::MulAdd(e, hn::Max(t, hn::Set(d, -88.0f)), weighted[k]);  // e is 0 there; -inf would be NaN
    });
    return {sum_of(hn::Add(sum[0], sum[1])), sum_of(hn::Add(weighted[0], weighted[1]))};
}

int64_t collect_in(const float* x, int64_t n, float threshold, bool inclusive, int32_t* found) {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const VF t = hn::Set(d, threshold);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += L) {
        const VF v = load_or(x + i, n - i, -HUGE_VALF);
        auto mask = inclusive ? hn::Ge(v, t) : hn::Gt(v, t);
        if (i + L > n) mask = hn::And(mask, hn::FirstN(d, static_cast<size_t>(n - i)));
        if (hn::AllFalse(d, mask)) continue;
        const auto index = hn::Iota(di, static_cast<int32_t>(i));
        hn::StoreU(hn::Compress(index, hn::RebindMask(di, mask)), di, found + count);
        count += static_cast<int64_t>(hn::CountTrue(d, mask));
    }
    return count;
}

void scaled_softmax_of(float* x, int64_t n, float max, float scale) {
    const VF m = hn::Set(DF(), max), s = hn::Set(DF(), scale);
    for_each_vector(n, [&](auto load, auto store, int64_t)
                           HWY_ATTR { store(hn::Mul(exp_nonpositive(hn::Sub(load(x), m)), s), x); });
}

float tempered_of(const float* x, int64_t n, float max, float inverse_temperature, float* out) {
    const DF d;
    const VF m = hn::Set(d, max), beta = hn::Set(d, inverse_temperature);
    VF sum = hn::Zero(d);
    for_each_vector(n, [&](auto load, auto store, int64_t i) HWY_ATTR {
        const VF e = exp_nonpositive(hn::Mul(hn::Sub(load(x), m), beta));
        store(e, out);
        const size_t rest = static_cast<size_t>(n - i);
        sum = hn::Add(sum, rest < hn::Lanes(d) ? hn::IfThenElseZero(hn::FirstN(d, rest), e) : e);
    });
    return sum_of(sum);
}

void add_rows_in(float* sum, const float* rows, int64_t count, int64_t pitch, int64_t n) {
    for (int64_t r = 0; r < count; ++r)
        for_each_vector(n, [&](auto load, auto store, int64_t)
                               HWY_ATTR { store(hn::Add(load(sum), load(rows + r * pitch)), sum); });
}

// No Gumbel noise exceeds this: the largest uniform is 1 - 2^-24, and -log(-log(1 - 2^-24)) is 16.64.
constexpr float kMostNoise = 16.7f;

struct Lane {
    float score[2 * HWY_MAX_BYTES / sizeof(float)];
};

// Few groups of lanes hold a new best, so the scalar search is rare.
HWY_INLINE void take_best(const VF score[2], const float* x, int64_t n, int32_t first_id, GumbelBest& best) {
    const DF d;
    const VF floor = hn::Set(d, best.score);
    if (hn::AllFalse(d, hn::Or(hn::Gt(score[0], floor), hn::Gt(score[1], floor)))) return;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    Lane lane;
    hn::StoreU(score[0], d, lane.score);
    hn::StoreU(score[1], d, lane.score + L);
    for (int64_t i = 0; i < HWY_MIN(n, 2 * L); ++i)
        if (lane.score[i] > best.score) best = {lane.score[i], first_id + static_cast<int32_t>(i), x[i]};
}

// Lanes that could not win with the largest noise need no numbers: on a trained model's rows that is nearly all.
void gumbel_best_in(const GumbelRow& row, const float* x, int64_t n, int32_t first_id, GumbelBest& best) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const VF max = hn::Set(d, row.max), beta = hn::Set(d, row.inverse_temperature);
    const RowUniforms uniforms(row.seed, RngStream::token, row.step, row.position);
    for (int64_t i = 0; i < n; i += 2 * L) {
        VF score[2];
        for (int64_t k = 0; k < 2; ++k)
            score[k] = hn::Mul(hn::Sub(load_or(x + i + k * L, n - i - k * L, -HUGE_VALF), max), beta);
        const VF reach = hn::Set(d, best.score - kMostNoise);
        if (hn::AllFalse(d, hn::Or(hn::Gt(score[0], reach), hn::Gt(score[1], reach)))) continue;
        VF u[2];
        uniforms.next(static_cast<uint32_t>(first_id) + static_cast<uint32_t>(i), u[0], u[1]);
        for (int64_t k = 0; k < 2; ++k) score[k] = hn::Add(score[k], gumbel_of(u[k]));
        take_best(score, x + i, n - i, first_id + static_cast<int32_t>(i), best);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(find_peak_in);
HWY_EXPORT(exp_sum_of);
HWY_EXPORT(exp_sums_of);
HWY_EXPORT(collect_in);
HWY_EXPORT(scaled_softmax_of);
HWY_EXPORT(tempered_of);
HWY_EXPORT(add_rows_in);
HWY_EXPORT(gumbel_best_in);

void find_peak(const float* x, int64_t n, Peak& peak) {
    HWY_DYNAMIC_DISPATCH(find_peak_in)(x, n, peak);
}
float exp_sum(const float* x, int64_t n, float max) {
    return HWY_DYNAMIC_DISPATCH(exp_sum_of)(x, n, max);
}
ExpSums exp_sums(const float* x, int64_t n, float max) {
    return HWY_DYNAMIC_DISPATCH(exp_sums_of)(x, n, max);
}
int64_t collect(const float* x, int64_t n, float threshold, bool inclusive, int32_t* found) {
    return HWY_DYNAMIC_DISPATCH(collect_in)(x, n, threshold, inclusive, found);
}
void scaled_softmax(float* x, int64_t n, float max, float scale) {
    HWY_DYNAMIC_DISPATCH(scaled_softmax_of)(x, n, max, scale);
}
float tempered(const float* x, int64_t n, float max, float inverse_temperature, float* out) {
    return HWY_DYNAMIC_DISPATCH(tempered_of)(x, n, max, inverse_temperature, out);
}
void add_rows_to(float* sum, const float* rows, int64_t count, int64_t pitch, int64_t n) {
    HWY_DYNAMIC_DISPATCH(add_rows_in)(sum, rows, count, pitch, n);
}
void gumbel_best(const GumbelRow& row, const float* x, int64_t n, int32_t first_id, GumbelBest& best) {
    HWY_DYNAMIC_DISPATCH(gumbel_best_in)(row, x, n, first_id, best);
}

}  // namespace noema::cpu
#endif
