// One-dimensional mixtures: 1 to 32 neighbouring threads share a scalar, its components dealt out to them in turn, so that they read
// neighbouring addresses. All threads of a warp stay together: those beyond the last scalar repeat it and write nothing.
#pragma once

#include <cfloat>

#include "common/launch.h"
#include "common/normal.h"
#include "common/reduce.h"
#include "device.h"
#include "noema/tensor.h"

namespace noema::cuda {

constexpr int kMixtureThreads = 256;

/// The scalars of an [R,c] matrix and their parameters [R,c,3K].
struct MixtureGrid {
    const float* parameters;
    int64_t row_stride, scalar_stride;
    int64_t count, c;  // scalars in all, of a row
    int K, width;      // width: threads per scalar, a power of two

    Grid grid() const {
        return {.blocks = dim3(static_cast<unsigned>(ceil_div(count * width, kMixtureThreads))),
                .threads = kMixtureThreads};
    }
};

/// Four components a thread leave enough threads without many shuffles; up to 256 a thread keeps its own in registers.
constexpr int kFewComponents = 4, kManyComponents = 8;

__host__ __device__ inline int mixture_width(int K) {
    int width = 1;
    while (width < 32 && width * kFewComponents < K) width *= 2;
    return width;
}

inline MixtureGrid mixture_grid(const View& parameters) {
    const int K = static_cast<int>(parameters.shape[2] / 3);
    return {parameters.as<float>(), parameters.stride[0],
            parameters.stride[1],   parameters.shape[0] * parameters.shape[1],
            parameters.shape[1],    K,
            mixture_width(K)};
}

/// f(kept) with how many components a thread keeps (kept.value): 0 when there are too many, and they are read anew.
template <class F>
Status with_kept(const MixtureGrid& g, const F& f) {
    if (g.K <= 32 * kFewComponents) return f(std::integral_constant<int, kFewComponents>{});
    if (g.K <= 32 * kManyComponents) return f(std::integral_constant<int, kManyComponents>{});
    return f(std::integral_constant<int, 0>{});
}

/// Which scalar is this thread's.
struct MyScalar {
    int64_t index, row, i;
    int lane, width;  // among the scalar's threads
    bool exists, writes;

    __device__ __forceinline__ explicit MyScalar(const MixtureGrid& g) {
        const int64_t thread = static_cast<int64_t>(blockIdx.x) * kMixtureThreads + threadIdx.x,
                      mine = thread / g.width;
        exists = mine < g.count;
        index = exists ? mine : g.count - 1;
        row = index / g.c;
        i = index - row * g.c;
        width = g.width;
        lane = static_cast<int>(threadIdx.x) % g.width;
        writes = exists && lane == 0;
    }
    /// The first and only one of a grid, by a whole warp: each of its groups of `width` threads does the same.
    __device__ __forceinline__ static MyScalar alone(const MixtureGrid& g) {
        return MyScalar(g, static_cast<int>(threadIdx.x) % 32);
    }
    template <class Real>
    __device__ __forceinline__ Real sum(Real x) const {
        return warp_reduce(x, Sum{}, width);
    }
    template <class Real>
    __device__ __forceinline__ Real most(Real x) const {
        return warp_reduce(x, Max{}, width);
    }

 private:
    __device__ __forceinline__ MyScalar(const MixtureGrid& g, int warp_lane)
        : index(0), row(0), i(0), lane(warp_lane % g.width), width(g.width), exists(true), writes(warp_lane == 0) {}
};

/// This thread's components of its scalar.
template <int kKept>
class MyComponents {
 public:
    __device__ __forceinline__ MyComponents(const MixtureGrid& g, const MyScalar& s)
        : row_(g.parameters + s.row * g.row_stride + s.i * g.scalar_stride), K_(g.K), lane_(s.lane), width_(s.width) {
        if constexpr (kKept > 0) {
#pragma unroll
            for (int j = 0; j < kKept; ++j) {
                const int k = lane_ + j * width_;
                logit_[j] = k < K_ ? row_[k] : 0;
                mean_[j] = k < K_ ? row_[K_ + k] : 0;
                raw_[j] = k < K_ ? row_[2 * K_ + k] : 0;
            }
        }
    }
    __device__ __forceinline__ const float* row() const {
        return row_;
    }

    /// f(j, k, logit, mean, raw); j counts where components are kept.
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        if constexpr (kKept > 0) {
#pragma unroll
            for (int j = 0; j < kKept; ++j) {
                const int k = lane_ + j * width_;
                if (k < K_) f(j, k, logit_[j], mean_[j], raw_[j]);
            }
        } else {
            for (int k = lane_; k < K_; k += width_) f(0, k, row_[k], row_[K_ + k], row_[2 * K_ + k]);
        }
    }
    __device__ __forceinline__ float largest_logit(const MyScalar& s) const {
        float most = -FLT_MAX;
        each([&](int, int, float logit, float, float) { most = max(most, logit); });
        return s.most(most);
    }

 private:
    const float* row_;
    int K_, lane_, width_;
    float logit_[kKept > 0 ? kKept : 1], mean_[kKept > 0 ? kKept : 1], raw_[kKept > 0 ? kKept : 1];
};

/// What one component has to do with the scalar at h.
struct Term {
    float weight;    // exp(logit - max)
    float below;     // weight P(x), x = (h - mean) / s
    float above;     // weight P(-x)
    float density;   // weight density(x) / s, without 1 / sqrt(2 pi)
    float distance;  // h - mean
    float inverse;   // 1 / s
    float slope;     // of the soft clip
};

__device__ __forceinline__ Term term_of(float log_weight, float mean, float raw, float h) {
    const SoftClip clip = softclip(raw);
    const float weight = expf(log_weight), inverse = expf(-clip.value), distance = h - mean, x = distance * inverse;
    const float a = bounded(x, kBellEnd<float>), e = bell(a), tail = tail_factor(a) * e * weight, rest = weight - tail;
    return {weight, x < 0 ? tail : rest, x < 0 ? rest : tail, weight * e * inverse, distance, inverse, clip.slope};
}

/// Exponents of density and tails: of a component log weight, and - x²/2 where they are small; of a mixture the largest.
template <class Real>
struct Exponents {
    Real density, below, above;
};
template <class Real>
__device__ __forceinline__ Exponents<Real> exponents_of(Real log_weight, Real x) {
    const Real falling = fma(x * x, Real(-0.5), log_weight);
    return {falling, x < 0 ? falling : log_weight, x < 0 ? log_weight : falling};
}
/// x² stays within the floats.
template <class Real>
__device__ __forceinline__ Real within_squares(Real x) {
    return copysign(bounded(x, Real(1e18)), x);
}

/// Density and tails relative to the mixture's exponents; the density has its 1 / s.
template <class Real>
__device__ __forceinline__ Exponents<Real> relative_to(const Exponents<Real>& top, Real log_weight, Real x,
                                                       Real inverse) {
    const Exponents<Real> e = exponents_of(log_weight, x);
    const Real factor = tail_factor(fabs(x)), rest = fma(-factor, bell(bounded(x, kBellEnd<Real>)), Real(1));
    return {exp(e.density - top.density) * inverse, exp(e.below - top.below) * (x < 0 ? factor : rest),
            exp(e.above - top.above) * (x < 0 ? rest : factor)};
}

/// Sums over the components, each times exp of its exponent; exponents differ from 0 only in rare scalars, where plain sums would leave
/// the floats.
struct MixtureSums {
    float weight, below, above, density;
    Exponents<float> top;
    float largest_logit;
    bool rare;
};

/// A component's term as the sums have it.
__device__ __forceinline__ Term term_of(const MixtureSums& s, float logit, float mean, float raw, float h) {
    const float log_weight = logit - s.largest_logit;
    Term t = term_of(log_weight, mean, raw, h);
    if (s.rare) {
        const Exponents<float> r = relative_to(s.top, log_weight, within_squares(t.distance * t.inverse), t.inverse);
        t.density = r.density;
        t.below = r.below;
        t.above = r.above;
    }
    return t;
}

/// The sums where a tail or the density is under 1e-30 of the largest weight: every sum relative to its largest term.
template <int kKept>
__device__ __forceinline__ void careful_sums(const MyComponents<kKept>& of, const MyScalar& me, float h,
                                             MixtureSums& s) {
    Exponents<float> top{-FLT_MAX, -FLT_MAX, -FLT_MAX};
    of.each([&](int, int, float logit, float mean, float raw) {
        const float x = within_squares((h - mean) * expf(-softclip(raw).value));
        const Exponents<float> e = exponents_of(logit - s.largest_logit, x);
        top = {max(top.density, e.density), max(top.below, e.below), max(top.above, e.above)};
    });
    top = {me.most(top.density), me.most(top.below), me.most(top.above)};
    MixtureSums careful{s.weight, 0, 0, 0, top, s.largest_logit, true};
    of.each([&](int, int, float logit, float mean, float raw) {
        const Term t = term_of(careful, logit, mean, raw, h);
        careful.below += t.below;
        careful.above += t.above;
        careful.density += t.density;
    });
    // What has no number yet keeps none: the maxima pass over it.
    const float lost = s.density - s.density;
    careful.below = me.sum(careful.below) + lost;
    careful.above = me.sum(careful.above) + lost;
    careful.density = me.sum(careful.density) + lost;
    if (s.rare) s = careful;
}

/// f(j, k, term) sees every term of this thread, as long as its scalar is not rare.
template <int kKept, class F>
__device__ __forceinline__ MixtureSums sums_of(const MyComponents<kKept>& of, const MyScalar& me, float h, F f) {
    MixtureSums s{0, 0, 0, 0, {0, 0, 0}, of.largest_logit(me), false};
    of.each([&](int j, int k, float logit, float mean, float raw) {
        const Term t = term_of(logit - s.largest_logit, mean, raw, h);
        s.weight += t.weight;
        s.below += t.below;
        s.above += t.above;
        s.density += t.density;
        f(j, k, t);
    });
    s.weight = me.sum(s.weight);
    s.below = me.sum(s.below);
    s.above = me.sum(s.above);
    s.density = me.sum(s.density);
    s.rare = !(s.below >= 1e-30f && s.above >= 1e-30f && s.density >= 1e-30f);
    if (__any_sync(kAllLanes, s.rare)) careful_sums(of, me, h, s);
    return s;
}

/// A scalar's way through the flow.
struct Mapped {
    float u;
    float log_density;  // log p(h)
    float log_slope;    // log du/dh
    float mills;        // Mills' ratio at |u|: du = mills dT / T for the smaller tail T
    bool lower;         // the lower tail is the smaller one
};

__device__ __forceinline__ Mapped map_of(const MixtureSums& s) {
    const float scale = 1.0f / s.weight, below = s.below * scale, above = s.above * scale;
    bool lower = below <= above;
    float u;
    if (s.rare) {
        const float log_below = logf(below) + s.top.below, log_above = logf(above) + s.top.above;
        lower = log_below <= log_above;
        u = quantile_of_log(log_below, log_above);
    } else {
        u = quantile(below, above);
    }
    const float root = 0.39894228040f, mills = mills_ratio(fabsf(u));
    const float density = logf(s.density * scale * root) + s.top.density;
    const float slope = logf(s.density * root * mills / (lower ? s.below : s.above)) +
                        (s.top.density - (lower ? s.top.below : s.top.above));
    return {u, density, slope, mills, lower};
}

/// out[r] = the sum over row r of `parts` [R,c]; nothing where either is null. In double, in order.
template <class T>
Status mixture_row_sums(const T* parts, T* out, int64_t R, int64_t c, const Stream& stream);

}  // namespace noema::cuda
