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

// Appends the indices of one vector's values that pass.
HWY_INLINE int64_t collect_from(VF v, int64_t i, float threshold, bool inclusive, int32_t* found) {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const VF t = hn::Set(d, threshold);
    const auto mask = inclusive ? hn::Ge(v, t) : hn::Gt(v, t);
    if (hn::AllFalse(d, mask)) return 0;
    const auto index = hn::Iota(di, static_cast<int32_t>(i));
    hn::StoreU(hn::Compress(index, hn::RebindMask(di, mask)), di, found);
    return static_cast<int64_t>(hn::CountTrue(d, mask));
}

// Four vectors at a glance: few hold anything.
int64_t collect_in(const float* x, int64_t n, float threshold, bool inclusive, int32_t* found) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const VF t = hn::Set(d, threshold);
    int64_t count = 0, i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        VF v[4];
        for (int64_t k = 0; k < 4; ++k) v[k] = hn::LoadU(d, x + i + k * L);
        const VF most = hn::Max(hn::Max(v[0], v[1]), hn::Max(v[2], v[3]));
        if (hn::AllFalse(d, hn::Ge(most, t))) continue;
        for (int64_t k = 0; k < 4; ++k) count += collect_from(v[k], i + k * L, threshold, inclusive, found + count);
    }
    for (; i < n; i += L) {
        const int64_t before = count;
        count += collect_from(load_or(x + i, n - i, -HUGE_VALF), i, threshold, inclusive, found + count);
        // Lanes beyond the end come last and pass only a threshold of -infinity.
        if (i + L > n) count = HWY_MIN(count, before + n - i);
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

float mass_above_in(const float* x, const float* mass, int64_t n, float threshold) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const VF t = hn::Set(d, threshold);
    VF sum[2] = {hn::Zero(d), hn::Zero(d)};
    for (int64_t i = 0; i < n; i += L) {
        VF& s = sum[i / L % 2];
        const auto mask = hn::Ge(load_or(x + i, n - i, -HUGE_VALF), t);
        s = hn::Add(s, hn::IfThenElseZero(mask, load_or(mass + i, n - i, 0)));
    }
    return sum_of(hn::Add(sum[0], sum[1]));
}

void drop_below_in(float* x, int64_t n, float threshold) {
    const VF t = hn::Set(DF(), threshold), gone = hn::Set(DF(), -HUGE_VALF);
    for_each_vector(n, [&](auto load, auto store, int64_t)
                           HWY_ATTR { store(hn::IfThenElse(hn::Ge(load(x), t), load(x), gone), x); });
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

// Lanes whose score can exceed `best` whatever rounding does: u > exp(-e) with e = exp(score - best) is needed, and
// exp(-e) >= 1 - e. For e a bound does: the bits of 2^x run above 2^x when interpolated linearly; 1.001 covers rounding.
HWY_INLINE auto may_win(VF score, VF u, VF best) {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const VF t = hn::Max(hn::Min(hn::Sub(score, best), hn::Set(d, 1.0f)), hn::Set(d, -80.0f));
    const auto bits = hn::ConvertTo(di, hn::MulAdd(t, hn::Set(d, 12102203.0f), hn::Set(d, 1065353216.0f + 12102.0f)));
    return hn::Lt(hn::Sub(hn::Set(d, 1.0f), u), hn::BitCast(d, bits));
}

// Three sieves: lanes that could not win with the largest noise need no random numbers (on a trained model's rows nearly
// all), those that do not with their own need no logarithms (some ten per row do), and few of those are a new best.
void gumbel_best_in(const GumbelRow& row, const float* x, int64_t n, int32_t first_id, GumbelBest& best) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const VF max = hn::Set(d, row.max), beta = hn::Set(d, row.inverse_temperature);
    const RowUniforms uniforms(row.seed, RngStream::token, row.step, row.position);
    for (int64_t i = 0; i < n; i += 2 * L) {
        const VF low = hn::Mul(hn::Sub(load_or(x + i, n - i, -HUGE_VALF), max), beta);
        const VF high = hn::Mul(hn::Sub(load_or(x + i + L, n - i - L, -HUGE_VALF), max), beta);
        const VF floor = hn::Set(d, best.score), reach = hn::Set(d, best.score - kMostNoise);
        if (hn::AllFalse(d, hn::Or(hn::Gt(low, reach), hn::Gt(high, reach)))) continue;
        VF u[2];
        uniforms.next(static_cast<uint32_t>(first_id) + static_cast<uint32_t>(i), u[0], u[1]);
        if (hn::AllFalse(d, hn::Or(may_win(low, u[0], floor), may_win(high, u[1], floor)))) continue;
        const VF score[2] = {hn::Add(low, gumbel_of(u[0])), hn::Add(high, gumbel_of(u[1]))};
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
HWY_EXPORT(mass_above_in);
HWY_EXPORT(drop_below_in);
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
float mass_above(const float* x, const float* mass, int64_t n, float threshold) {
    return HWY_DYNAMIC_DISPATCH(mass_above_in)(x, mass, n, threshold);
}
void drop_below(float* x, int64_t n, float threshold) {
    HWY_DYNAMIC_DISPATCH(drop_below_in)(x, n, threshold);
}
void add_rows_to(float* sum, const float* rows, int64_t count, int64_t pitch, int64_t n) {
    HWY_DYNAMIC_DISPATCH(add_rows_in)(sum, rows, count, pitch, n);
}
void gumbel_best(const GumbelRow& row, const float* x, int64_t n, int32_t first_id, GumbelBest& best) {
    HWY_DYNAMIC_DISPATCH(gumbel_best_in)(row, x, n, first_id, best);
}

}  // namespace noema::cpu
#endif
