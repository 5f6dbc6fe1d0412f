#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_cdf.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/mixture_cdf.h"
#include "cpu/mixture_lanes-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// Adds up rows whose scalars come one after the other, in double: a row may be long.
class RowSums {
 public:
    RowSums(const View& out, int64_t c) : out_(out), c_(c) {}
    void add(VF x, const Group& g) {
        if (!out_) return;
        HWY_ALIGN float lanes[kLanes];
        hn::Store(x, DF(), lanes);
        for (int64_t s = 0; s < g.n; ++s) {
            sum_ = (g.i[s] ? sum_ : 0.0) + static_cast<double>(lanes[s]);
            if (g.i[s] + 1 == c_) out_.as<float>()[g.row[s]] = static_cast<float>(sum_);
        }
    }

 private:
    const View& out_;
    int64_t c_;
    double sum_ = 0;
};

void mixture_cdf_rows(const MixtureCdf& p, int64_t first, int64_t last) {
    const int64_t c = p.h.shape[1];
    Groups groups(first, last, c);
    RowSums density(p.log_density, c), det(p.log_det, c);
    for (Group g; groups.next(g);) {
        const Mapped m = map_of(sums_of(Mixtures(p.parameters, g), load_group(p.h, g), nullptr));
        if (p.u) store_group(gridded(m.u, p.grid), p.u, g);
        density.add(m.log_density, g);
        det.add(m.log_slope, g);
    }
}

/// What a component's gradients are made of, scalar by scalar.
struct Upstream {
    VF by_share;  // of a component's share of the smaller tail
    VF d_log_p;
    VF by_slope;               // of u times du/dh
    VF weight, tail, density;  // one over the sums
    VF lower;
    VF h_gradient;
};

/// d_logit, d_mean, d_raw.
HWY_INLINE void gradients_of(const Term& t, Upstream& up, VF& d_logit, VF& d_mean, VF& d_raw) {
    const DF d;
    const VF pi = hn::Mul(t.weight, up.weight), q = hn::Mul(t.density, up.density);
    const VF share = hn::Mul(hn::IfThenElse(hn::MaskFromVec(up.lower), t.below, t.above), up.tail);
    const VF x = hn::Mul(t.distance, t.inverse);
    d_logit = hn::MulAdd(up.by_share, hn::Sub(share, pi), hn::Mul(up.d_log_p, hn::Sub(q, pi)));
    const VF mean = hn::MulSub(up.d_log_p, hn::Mul(x, t.inverse), up.by_slope);
    const VF square = hn::MulSub(x, x, hn::Set(d, 1.0f));
    const VF raw = hn::Mul(hn::MulSub(up.d_log_p, square, hn::Mul(up.by_slope, t.distance)), t.slope);
    const auto none = hn::Eq(q, hn::Zero(d));  // x² may be infinite there
    d_mean = hn::IfThenElse(none, q, hn::Mul(q, mean));
    d_raw = hn::IfThenElse(none, q, hn::Mul(q, raw));
    up.h_gradient = hn::Sub(up.h_gradient, d_mean);
}

struct Rows {
    float* row[kLanes];  // null: no scalar of this group
    Rows(const View& d_parameters, const Group& g) {
        for (int64_t s = 0; s < kLanes; ++s) row[s] = s < g.n ? d_parameters.at<float>(g.row[s], g.i[s]) : nullptr;
    }
};

template <bool kWhole>
HWY_INLINE void store_gradients(const float* kept, const Rows& to, int64_t K, int64_t k, Upstream& up) {
    VF d_logit[kQuad], d_mean[kQuad], d_raw[kQuad];
    const int64_t n = kWhole ? kQuad : K - k;
    for (int64_t j = 0; j < kQuad; ++j) d_logit[j] = d_mean[j] = d_raw[j] = hn::Zero(DF());
    for (int64_t j = 0; j < n; ++j) gradients_of(kept_term(kept, k + j), up, d_logit[j], d_mean[j], d_raw[j]);
    const size_t count = static_cast<size_t>(n);
    store_quad<kWhole>(d_logit, to.row, k, count);
    store_quad<kWhole>(d_mean, to.row, K + k, count);
    store_quad<kWhole>(d_raw, to.row, 2 * K + k, count);
}

HWY_INLINE Upstream upstream_of(const MixtureCdfBackward& p, const Group& g, const MixtureSums& s) {
    const DF d;
    const Mapped m = map_of(s);
    const VF one = hn::Set(d, 1.0f), d_log_det = load_rows(p.d_log_det, g);
    const VF d_u = hn::MulAdd(m.u, d_log_det, load_group(p.d_u, g));
    const auto lower = hn::MaskFromVec(m.lower);
    const VF share = hn::Mul(d_u, m.mills);
    return {hn::IfThenElse(lower, share, hn::Neg(share)),
            hn::Add(load_rows(p.d_log_density, g), d_log_det),
            hn::Mul(d_u, exp_any(m.log_slope)),
            hn::Div(one, s.weight),
            hn::Div(one, hn::IfThenElse(lower, s.below, s.above)),
            hn::Div(one, s.density),
            m.lower,
            hn::Zero(d)};
}

void mixture_cdf_backward_rows(const MixtureCdfBackward& p, float* kept, int64_t first, int64_t last) {
    Groups groups(first, last, p.h.shape[1]);
    for (Group g; groups.next(g);) {
        const Mixtures mixtures(p.parameters, g);
        Upstream up = upstream_of(p, g, sums_of(mixtures, load_group(p.h, g), kept));
        const Rows to(p.d_parameters, g);
        const int64_t K = mixtures.K;
        int64_t k = 0;
        for (; k + kQuad <= K; k += kQuad) store_gradients<true>(kept, to, K, k, up);
        if (k < K) store_gradients<false>(kept, to, K, k, up);
        store_group(up.h_gradient, p.d_h, g);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(mixture_cdf_rows);
HWY_EXPORT(mixture_cdf_backward_rows);

namespace {

bool is_wide(const MixtureCdf& p) {
    return p.h.dtype == DType::f64;
}

size_t forward_workspace(const MixtureCdf& p, const Stream& stream) {
    return is_wide(p) ? wide_mixture_bytes(p.parameters, stream) : 0;
}

Status forward(const MixtureCdf& p, const Stream& stream, Workspace workspace) {
    const int64_t R = p.h.shape[0], c = p.h.shape[1];
    if (c == 0) {
        for (const View& sums : {p.log_density, p.log_det})
            for (int64_t r = 0; sums && r < R; ++r) sums.as<float>()[r] = 0;
        return {};
    }
    if (is_wide(p)) {
        pass_wide_mixtures(p, stream, workspace);
        return {};
    }
    parallel_mixtures(stream, p.parameters, [&](int64_t first, int64_t last, int) {
        HWY_DYNAMIC_DISPATCH(mixture_cdf_rows)(p, first, last);
    });
    return {};
}

int64_t kept_floats(const MixtureCdfBackward& p) {
    constexpr int64_t kTerms = 7, kMostLanes = 16;
    return p.parameters.shape[2] / 3 * kTerms * kMostLanes;
}

size_t backward_workspace(const MixtureCdfBackward& p, const Stream& stream) {
    return workspace_bytes<float>(kept_floats(p) * stream.threads);
}

Status backward(const MixtureCdfBackward& p, const Stream& stream, Workspace workspace) {
    float* kept = workspace.take<float>(kept_floats(p) * stream.threads);
    parallel_mixtures(stream, p.parameters, [&](int64_t first, int64_t last, int worker) {
        HWY_DYNAMIC_DISPATCH(mixture_cdf_backward_rows)(p, kept + worker * kept_floats(p), first, last);
    });
    return {};
}

}  // namespace

Op<MixtureCdf> mixture_cdf_entry() {
    return {forward, forward_workspace};
}
Op<MixtureCdfBackward> mixture_cdf_backward_entry() {
    return {backward, backward_workspace};
}

}  // namespace noema::cpu
#endif
