// affine, its backward and its inverse: a vector is a part of one row, or several rows where rows are at most half as long. Wide
// states are few beside the products that make their parameters: they are taken one by one.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/affine.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "cpu/cpu.h"
#include "cpu/lane_groups-inl.h"
#include "cpu/normal-inl.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"
#include "cpu/wide_state.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// Columns [i, i + n) of row r: a vector where kWhole, else less. (Masked stores take several times as long as whole ones.)
template <bool kWhole>
struct PartOfRow {
    int64_t r, i, n;

    HWY_INLINE VF load(const View& v, int64_t column = 0) const {
        const float* at = v.at<float>(r) + column + i;
        if constexpr (kWhole) return hn::LoadU(DF(), at);
        return load_n(DF(), at, static_cast<size_t>(n));
    }
    HWY_INLINE void store(VF x, const View& v, int64_t column = 0) const {
        float* at = v.at<float>(r) + column + i;
        if constexpr (kWhole)
            hn::StoreU(x, DF(), at);
        else
            store_n(x, DF(), at, static_cast<size_t>(n));
    }
    /// v's value of each lane's row.
    HWY_INLINE VF of_row(const View& v) const { return hn::Set(DF(), v.as<float>()[r]); }
};

/// body(part) for all of row r.
template <class Body>
HWY_INLINE void parts_of_row(int64_t r, int64_t c, const Body& body) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF()));
    int64_t i = 0;
    for (; i + L <= c; i += L) body(PartOfRow<true>{r, i, L});
    if (i < c) body(PartOfRow<false>{r, i, c - i});
}

/// Rows [r, r + count) of c columns, one behind the other.
struct WholeRows {
    int64_t r, count, c;
    const LaneGroups& groups;

    HWY_INLINE VF load(const View& v, int64_t column = 0) const {
        VF x = load_n(DF(), v.at<float>(r) + column, static_cast<size_t>(c));
        for (int64_t k = 1; k < count; ++k) x = hn::Or(x, hn::MaskedLoad(lanes(k), DF(), at(v, k) + column));
        return x;
    }
    HWY_INLINE void store(VF x, const View& v, int64_t column = 0) const {
        for (int64_t k = 0; k < count; ++k) hn::BlendedStore(x, lanes(k), DF(), at(v, k) + column);
    }
    HWY_INLINE VF of_row(const View& v) const {
        return groups.spread(load_n(DF(), v.as<float>() + r, static_cast<size_t>(count)));
    }

 private:
    HWY_INLINE hn::Mask<DF> lanes(int64_t k) const {
        const DF d;
        return hn::AndNot(hn::FirstN(d, static_cast<size_t>(k * c)), hn::FirstN(d, static_cast<size_t>((k + 1) * c)));
    }
    /// Where a vector starts whose lanes(k) are row k.
    HWY_INLINE float* at(const View& v, int64_t k) const { return v.at<float>(r + k) - k * c; }
};

/// What is summed over a row.
struct Terms {
    VF clipped;  // a'
    VF square;   // u²
};

constexpr float kHalfLogTau = 0.9189385332f;  // log(2 pi) / 2

/// body(part) for all of rows [first, last).
template <class Body>
HWY_INLINE void each_part(int64_t first, int64_t last, int64_t c, const Body& body) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF()));
    if (c > 0 && 2 * c <= L) {
        const LaneGroups groups(c, 0);
        for (int64_t r = first; r < last; r += L / c) body(WholeRows{r, std::min(L / c, last - r), c, groups});
        return;
    }
    for (int64_t r = first; r < last; ++r) parts_of_row(r, c, body);
}

/// The same where body returns Terms, whose sums give the rows' logarithms.
template <class Body>
HWY_INLINE void sum_rows(const Affine& p, int64_t first, int64_t last, const Body& body) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d)), c = p.h.shape[1];
    const VF normaliser = hn::Set(d, static_cast<float>(c) * kHalfLogTau), half = hn::Set(d, -0.5f);
    const auto density = [&](Terms sums)
                             HWY_ATTR { return hn::Sub(hn::MulSub(sums.square, half, normaliser), sums.clipped); };
    if (c > 0 && 2 * c <= L) {
        const LaneSums groups(c, 0);
        for (int64_t r = first; r < last; r += L / c) {
            const int64_t count = std::min(L / c, last - r);
            const Terms t = body(WholeRows{r, count, c, groups}), sums{groups.sums(t.clipped), groups.sums(t.square)};
            const size_t n = static_cast<size_t>(count);
            if (p.log_det) store_n(hn::Neg(sums.clipped), d, p.log_det.as<float>() + r, n);
            if (p.log_density) store_n(density(sums), d, p.log_density.as<float>() + r, n);
        }
        return;
    }
    for (int64_t r = first; r < last; ++r) {
        Terms sums{hn::Zero(d), hn::Zero(d)};
        parts_of_row(r, c, [&](const auto& part) HWY_ATTR {
            const Terms t = body(part);
            sums = {hn::Add(sums.clipped, t.clipped), hn::Add(sums.square, t.square)};
        });
        sums = {hn::SumOfLanes(d, sums.clipped), hn::SumOfLanes(d, sums.square)};
        if (p.log_det) p.log_det.as<float>()[r] = -hn::GetLane(sums.clipped);
        if (p.log_density) p.log_density.as<float>()[r] = hn::GetLane(density(sums));
    }
}

/// exp(x) for |x| <= 4; NaN stays NaN.
HWY_INLINE VF exp_small(VF x) {
    VF n;
    const VF y = exp_reduced(x, n);
    return hn::Mul(y, power_of_two(n));
}

void affine_rows(const Affine& p, int64_t first, int64_t last) {
    const int64_t c = p.h.shape[1];
    sum_rows(p, first, last, [&](const auto& part) HWY_ATTR {
        const VF clipped = softclip(part.load(p.parameters)).value;
        const VF centred = hn::Sub(part.load(p.h), part.load(p.parameters, c));
        const VF u = hn::Mul(centred, exp_small(hn::Neg(clipped)));
        if (p.u) part.store(gridded(u, p.grid), p.u);
        return Terms{clipped, hn::Mul(u, u)};
    });
}

void affine_backward_rows(const AffineBackward& p, int64_t first, int64_t last) {
    const int64_t c = p.h.shape[1];
    each_part(first, last, c, [&](const auto& part) HWY_ATTR {
        const VF none = hn::Zero(DF());
        const SoftClip clip = softclip(part.load(p.parameters));
        const VF scale = exp_small(hn::Neg(clip.value));
        const VF u = hn::Mul(hn::Sub(part.load(p.h), part.load(p.parameters, c)), scale);
        const VF d_density = p.d_log_density ? part.of_row(p.d_log_density) : none;
        const VF d_det = p.d_log_det ? hn::Add(part.of_row(p.d_log_det), d_density) : d_density;
        const VF d_u = hn::NegMulAdd(d_density, u, p.d_u ? part.load(p.d_u) : none);
        const VF d_h = hn::Mul(d_u, scale);
        part.store(d_h, p.d_h);
        part.store(hn::Mul(hn::Neg(hn::MulAdd(d_u, u, d_det)), clip.slope), p.d_parameters);
        part.store(hn::Neg(d_h), p.d_parameters, c);
    });
}

void affine_inverse_rows(const AffineInverse& p, int64_t first, int64_t last) {
    const int64_t c = p.u.shape[1];
    each_part(first, last, c, [&](const auto& part) HWY_ATTR {
        const VF scale = exp_small(softclip(part.load(p.parameters)).value);
        const VF h = hn::MulAdd(part.load(p.u), scale, part.load(p.parameters, c));
        part.store(gridded(h, p.grid), p.h);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(affine_rows);
HWY_EXPORT(affine_backward_rows);
HWY_EXPORT(affine_inverse_rows);

namespace {

double softclip(float raw) {
    return 4 * std::tanh(static_cast<double>(raw) / 4);
}

void wide_rows(const Affine& p, int64_t first, int64_t last) {
    const int64_t c = p.h.shape[1];
    for (int64_t r = first; r < last; ++r) {
        const float* parameters = p.parameters.at<const float>(r);
        double log_det = 0, log_normal = 0;
        for (int64_t i = 0; i < c; ++i) {
            const double clipped = softclip(parameters[i]);
            const double u = (load_state(p.h, r, i) - static_cast<double>(parameters[c + i])) * std::exp(-clipped);
            if (p.u) store_state(p.u, r, i, u, p.grid);
            log_det -= clipped;
            log_normal -= 0.5 * u * u + 0.91893853320467274178;
        }
        if (p.log_det) p.log_det.as<float>()[r] = static_cast<float>(log_det);
        if (p.log_density) p.log_density.as<float>()[r] = static_cast<float>(log_det + log_normal);
    }
}

void wide_inverse_rows(const AffineInverse& p, int64_t first, int64_t last) {
    const int64_t c = p.u.shape[1];
    for (int64_t r = first; r < last; ++r) {
        const float* parameters = p.parameters.at<const float>(r);
        for (int64_t i = 0; i < c; ++i) {
            const double scale = std::exp(softclip(parameters[i])), shift = static_cast<double>(parameters[c + i]);
            store_state(p.h, r, i, load_state(p.u, r, i) * scale + shift, p.grid);
        }
    }
}

Status forward(const Affine& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.h.shape[0], p.h.shape[1], [&](int64_t first, int64_t last) {
        p.h.dtype == DType::f64 ? wide_rows(p, first, last) : HWY_DYNAMIC_DISPATCH(affine_rows)(p, first, last);
    });
    return {};
}

Status backward(const AffineBackward& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.h.shape[0], p.h.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(affine_backward_rows)(p, first, last);
    });
    return {};
}

Status inverse(const AffineInverse& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.u.shape[0], p.u.shape[1], [&](int64_t first, int64_t last) {
        p.u.dtype == DType::f64 ? wide_inverse_rows(p, first, last)
                                : HWY_DYNAMIC_DISPATCH(affine_inverse_rows)(p, first, last);
    });
    return {};
}

}  // namespace

Op<Affine> affine_entry() {
    return {forward, nullptr};
}
Op<AffineBackward> affine_backward_entry() {
    return {backward, nullptr};
}
Op<AffineInverse> affine_inverse_entry() {
    return {inverse, nullptr};
}

}  // namespace noema::cpu
#endif
