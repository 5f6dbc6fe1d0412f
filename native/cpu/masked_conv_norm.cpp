#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/masked_conv_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

float row_mass(const float* p, int64_t K) {
    VF sum = hn::Zero(DF());
    for_each_vector(K, [&](auto load, auto, int64_t) HWY_ATTR { sum = hn::Add(sum, load(p)); });
    return sum_of(sum);
}

// The lanes beyond the last vector's end are no logits.
float row_mass_of_logits(const float* logits, float lse, int64_t K) {
    const DF d;
    const VF l = hn::Set(d, lse);
    VF sum = hn::Zero(d);
    for_each_vector(K, [&](auto load, auto, int64_t i) HWY_ATTR {
        const VF p = exp_any(hn::Sub(load(logits), l));
        const size_t rest = static_cast<size_t>(K - i);
        sum = hn::Add(sum, rest < hn::Lanes(d) ? hn::IfThenElseZero(hn::FirstN(d, rest), p) : p);
    });
    return sum_of(sum);
}

void scale_row(const float* p, float factor, float* out, int64_t K) {
    const VF f = hn::Set(DF(), factor);
    for_each_vector(K, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::Mul(load(p), f), out); });
}

void scale_row_of_logits(const float* logits, float lse, float factor, float* out, int64_t K) {
    const VF f = hn::Set(DF(), factor), l = hn::Set(DF(), lse);
    for_each_vector(
        K, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::Mul(exp_any(hn::Sub(load(logits), l)), f), out); });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(row_mass);
HWY_EXPORT(row_mass_of_logits);
HWY_EXPORT(scale_row);
HWY_EXPORT(scale_row_of_logits);

namespace {

// Elements of p per task: rows are grouped by shape, some 20 us of work each.
constexpr int64_t kElements = 32768;

float shaped(ConvShape shape, float x) {
    if (shape == ConvShape::tanh) return std::tanh(x);
    if (shape == ConvShape::linear) return std::min(x, 1.0f);
    return -std::expm1(-x);
}

/// Counts are whole numbers of at most min(kernel, T), so g is evaluated once for each.
int64_t table_size(const MaskedConvNorm& p) {
    return std::min(p.kernel, p.masked.shape[1]) + 1;
}

// A window slides over the sequence: one position enters, one leaves.
void count_sequence(const MaskedConvNorm& p, const float* table, int64_t b) {
    const int64_t T = p.masked.shape[1], reach = std::min(p.kernel / 2, T);
    const uint8_t* masked = p.masked.at<uint8_t>(b);
    float* s = p.s.at<float>(b);
    float* count = p.count ? p.count.at<float>(b) : nullptr;
    int64_t n = 0;
    for (int64_t i = 0; i < std::min(reach, T); ++i) n += masked[i] == 0;
    for (int64_t i = 0; i < T; ++i) {
        if (i + reach < T) n += masked[i + reach] == 0;
        if (i - reach > 0) n -= masked[i - reach - 1] == 0;
        s[i] = table[n];
        if (count) count[i] = static_cast<float>(n);
    }
}

// S of the positions [first, last) of all sequences; mass[b T + i] is a masked position's sum of p. In double and in
// order, so it depends on nothing but the values.
float normaliser_of(const MaskedConvNorm& p, const float* mass, int64_t first, int64_t last) {
    const int64_t T = p.masked.shape[1];
    double numerator = 0, denominator = 0;
    for (int64_t b = first; b < last; ++b) {
        const uint8_t* masked = p.masked.at<uint8_t>(b);
        const float* s = p.s.at<float>(b);
        for (int64_t i = 0; i < T; ++i) {
            if (!masked[i]) continue;
            numerator += p.numerator == ConvNumerator::masked_count ? 1.0 : double{mass[b * T + i]};
            denominator += double{s[i]} * mass[b * T + i];
        }
    }
    return static_cast<float>(numerator / (denominator + 1e-12));
}

/// A row of p, and the position that it belongs to.
struct Row {
    int64_t b, i;
    const float* p;
    float* out;
    float lse;  // of p's logits, where it holds such
};

Row row_of(const MaskedConvNorm& p, int64_t row) {
    const int64_t T = p.masked.shape[1], at = p.rows ? p.rows.as<int32_t>()[row] : row, b = at / T, i = at % T;
    if (p.rows) return {b, i, p.p.at<float>(row), p.p_conv.at<float>(row), p.lse ? p.lse.as<float>()[row] : 0};
    return {b, i, p.p.at<float>(b, i), p.p_conv.at<float>(b, i), 0};
}

/// Calls f(row) for every row of p, grouped so that a task has about kElements values.
template <class F>
void each_row(const MaskedConvNorm& p, const Stream& stream, const F& f) {
    const int64_t rows = p.rows ? p.rows.shape[0] : p.masked.size(), K = p.p.shape[p.p.rank - 1];
    const int64_t group = std::max<int64_t>(1, kElements / std::max<int64_t>(1, K));
    parallel_for(stream, (rows + group - 1) / group, [&](int64_t task, int) {
        for (int64_t row = task * group; row < std::min(rows, (task + 1) * group); ++row) f(row_of(p, row), K);
    });
}

void normalise(const MaskedConvNorm& p, const Stream& stream, float* mass, float* S) {
    const int64_t B = p.masked.shape[0], T = p.masked.shape[1];
    const bool whole = p.scope == ConvScope::batch;
    if (p.rows) std::fill(mass, mass + B * T, 0.0f);
    each_row(p, stream, [&](const Row& row, int64_t K) {
        if (!p.masked.at<uint8_t>(row.b)[row.i]) return;
        mass[row.b * T + row.i] = p.lse ? HWY_DYNAMIC_DISPATCH(row_mass_of_logits)(row.p, row.lse, K)
                                        : HWY_DYNAMIC_DISPATCH(row_mass)(row.p, K);
    });
    for (int64_t b = 0; b < (whole ? 1 : B); ++b) S[b] = normaliser_of(p, mass, b, whole ? B : b + 1);
    if (p.normaliser)
        for (int64_t b = 0; b < p.normaliser.shape[0]; ++b) p.normaliser.as<float>()[b] = S[b];
    each_row(p, stream, [&](const Row& row, int64_t K) {
        const float factor = p.s.at<float>(row.b)[row.i] * S[whole ? 0 : row.b];
        if (!p.masked.at<uint8_t>(row.b)[row.i])
            std::memset(row.out, 0, sizeof(float) * K);
        else if (p.lse)
            HWY_DYNAMIC_DISPATCH(scale_row_of_logits)(row.p, row.lse, factor, row.out, K);
        else
            HWY_DYNAMIC_DISPATCH(scale_row)(row.p, factor, row.out, K);
    });
}

size_t workspace_size(const MaskedConvNorm& p, const Stream&) {
    const int64_t B = p.masked.shape[0], T = p.masked.shape[1];
    const size_t table = workspace_bytes<float>(table_size(p));
    return p.p ? table + workspace_bytes<float>(B * T) + workspace_bytes<float>(B + 1) : table;
}

Status run(const MaskedConvNorm& p, const Stream& stream, Workspace workspace) {
    const int64_t B = p.masked.shape[0], T = p.masked.shape[1];
    float* table = workspace.take<float>(table_size(p));
    for (int64_t n = 0; n < table_size(p); ++n) table[n] = shaped(p.shape, p.multiplier * static_cast<float>(n));
    parallel_for(stream, B, [&](int64_t b, int) { count_sequence(p, table, b); });
    if (!p.p) return {};
    float* mass = workspace.take<float>(B * T);
    normalise(p, stream, mass, workspace.take<float>(B + 1));
    return {};
}

}  // namespace

Op<MaskedConvNorm> masked_conv_norm_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cpu
#endif
