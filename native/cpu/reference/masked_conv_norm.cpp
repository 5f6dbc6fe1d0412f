#include <algorithm>
#include <numeric>
#include <vector>

#include "reference.h"

namespace noema::reference {

namespace {

bool is_masked(const View& masked, int64_t b, int64_t i) {
    return masked.as<uint8_t>()[offset_of(masked, b, i)] != 0;
}

int64_t unmasked_around(const MaskedConvNorm& p, int64_t b, int64_t i) {
    const int64_t reach = p.kernel / 2, T = p.masked.shape[1];
    int64_t n = 0;
    for (int64_t j = std::max<int64_t>(0, i - reach); j <= std::min(T - 1, i + reach); ++j)
        n += !is_masked(p.masked, b, j);
    return n;
}

template <class A>
A shaped(ConvShape shape, A x) {
    if (shape == ConvShape::tanh) return std::tanh(x);
    if (shape == ConvShape::linear) return std::min(x, A{1});
    return -std::expm1(-x);
}

/// Which row of p each position has, or -1.
std::vector<int64_t> rows_of(const MaskedConvNorm& p) {
    std::vector<int64_t> rows(static_cast<size_t>(p.masked.size()), -1);
    if (!p.rows) std::iota(rows.begin(), rows.end(), 0);
    for (int64_t r = 0; p.rows && r < p.rows.shape[0]; ++r) rows[p.rows.as<int32_t>()[r]] = r;
    return rows;
}

int64_t row_offset(const MaskedConvNorm& p, const View& v, int64_t row) {
    const int64_t T = p.masked.shape[1];
    return p.rows ? offset_of(v, row) : offset_of(v, row / T, row % T);
}

template <class A>
A value_at(const MaskedConvNorm& p, int64_t row, int64_t j) {
    const A x = load<A>(p.p, row_offset(p, p.p, row) + j);
    return p.lse ? std::exp(x - get<A>(p.lse, row)) : x;
}

template <class A>
A mass_at(const MaskedConvNorm& p, int64_t row) {
    A sum = 0;
    for (int64_t j = 0; row >= 0 && j < p.p.shape[p.p.rank - 1]; ++j) sum += value_at<A>(p, row, j);
    return sum;
}

// S of the sequences [first, last).
template <class A>
A normaliser_of(const MaskedConvNorm& p, const std::vector<int64_t>& rows, int64_t first, int64_t last) {
    A numerator = 0, denominator = 0;
    for (int64_t b = first; b < last; ++b)
        for (int64_t i = 0; i < p.masked.shape[1]; ++i) {
            if (!is_masked(p.masked, b, i)) continue;
            const A mass = mass_at<A>(p, rows[b * p.masked.shape[1] + i]);
            numerator += p.numerator == ConvNumerator::masked_count ? A{1} : mass;
            denominator += get<A>(p.s, b, i) * mass;
        }
    return numerator / (denominator + static_cast<A>(1e-12));
}

template <class A>
void normalise(const MaskedConvNorm& p, const std::vector<int64_t>& rows, int64_t b, A S) {
    for (int64_t i = 0; i < p.masked.shape[1]; ++i) {
        const int64_t row = rows[b * p.masked.shape[1] + i];
        for (int64_t j = 0; row >= 0 && j < p.p.shape[p.p.rank - 1]; ++j)
            store<A>(p.p_conv, row_offset(p, p.p_conv, row) + j,
                     is_masked(p.masked, b, i) ? value_at<A>(p, row, j) * get<A>(p.s, b, i) * S : A{0});
    }
}

template <class A>
Status masked_conv_norm_loop(const MaskedConvNorm& p) {
    const int64_t B = p.masked.shape[0], T = p.masked.shape[1];
    for (int64_t b = 0; b < B; ++b)
        for (int64_t i = 0; i < T; ++i) {
            const A count = static_cast<A>(unmasked_around(p, b, i));
            if (p.count) set<A>(p.count, count, b, i);
            set<A>(p.s, shaped(p.shape, static_cast<A>(p.multiplier) * count), b, i);
        }
    if (!p.p) return {};
    const bool whole = p.scope == ConvScope::batch;
    const std::vector<int64_t> rows = rows_of(p);
    A S = whole ? normaliser_of<A>(p, rows, 0, B) : A{0};
    if (whole && p.normaliser) set<A>(p.normaliser, S, 0);
    for (int64_t b = 0; b < B; ++b) {
        if (!whole) S = normaliser_of<A>(p, rows, b, b + 1);
        if (!whole && p.normaliser) set<A>(p.normaliser, S, b);
        normalise(p, rows, b, S);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(masked_conv_norm, MaskedConvNorm)

}  // namespace noema::reference
