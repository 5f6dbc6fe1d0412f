#include <algorithm>

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

template <class A>
A mass_at(const View& p, int64_t b, int64_t i) {
    A sum = 0;
    for (int64_t j = 0; j < p.shape[2]; ++j) sum += get<A>(p, b, i, j);
    return sum;
}

// S of the sequences [first, last).
template <class A>
A normaliser_of(const MaskedConvNorm& p, int64_t first, int64_t last) {
    A numerator = 0, denominator = 0;
    for (int64_t b = first; b < last; ++b)
        for (int64_t i = 0; i < p.masked.shape[1]; ++i) {
            if (!is_masked(p.masked, b, i)) continue;
            const A mass = mass_at<A>(p.p, b, i);
            numerator += p.numerator == ConvNumerator::masked_count ? A{1} : mass;
            denominator += get<A>(p.s, b, i) * mass;
        }
    return numerator / (denominator + static_cast<A>(1e-12));
}

template <class A>
void normalise(const MaskedConvNorm& p, int64_t b, A S) {
    for (int64_t i = 0; i < p.masked.shape[1]; ++i)
        for (int64_t j = 0; j < p.p.shape[2]; ++j)
            set<A>(p.p_conv, is_masked(p.masked, b, i) ? get<A>(p.p, b, i, j) * get<A>(p.s, b, i) * S : A{0}, b, i, j);
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
    A S = whole ? normaliser_of<A>(p, 0, B) : A{0};
    if (whole && p.normaliser) set<A>(p.normaliser, S, 0);
    for (int64_t b = 0; b < B; ++b) {
        if (!whole) S = normaliser_of<A>(p, b, b + 1);
        if (!whole && p.normaliser) set<A>(p.normaliser, S, b);
        normalise(p, b, S);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(masked_conv_norm, MaskedConvNorm)

}  // namespace noema::reference
