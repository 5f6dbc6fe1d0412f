// mixture_cdf_inverse, and mixture_cdf of wide states, which is one evaluation of the same: in double, as many scalars at a time as a
// vector has lanes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_inverse.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/component_table.h"
#include "cpu/cpu.h"
#include "cpu/mixture_cdf.h"
#include "cpu/probit_root-inl.h"
#include "cpu/wide_state.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

/// Up to kWideLanes consecutive scalars of an [R,c] matrix.
struct WideGroup {
    int64_t n = 0, row[kWideLanes], i[kWideLanes];

    /// The next ones of rows before `last`, from (r, j) on; false when there are none.
    bool take(int64_t& r, int64_t& j, int64_t last, int64_t c) {
        for (n = 0; n < kWideLanes && r < last; ++n) {
            row[n] = r, i[n] = j;
            if (++j == c) j = 0, ++r;
        }
        return n > 0;
    }
};

HWY_INLINE VW widened(const float* p, size_t n) {
    const hn::Rebind<float, DW> narrow;
    return hn::PromoteTo(DW(), hn::MaskedLoad(hn::FirstN(narrow, n), narrow, p));
}

/// exp(4 tanh(raw / 4)) and one over it.
HWY_INLINE void scales_of(VW raw, VW& scale, VW& inverse) {
    const DW d;
    const VW one = hn::Set(d, 1.0), e = exp_nonpositive(hn::Mul(hn::Abs(raw), hn::Set(d, -0.5)));
    const VW clip = hn::Div(hn::Mul(hn::Set(d, 4.0), hn::Sub(one, e)), hn::Add(one, e));
    scale = exp_within(hn::CopySign(clip, raw));
    inverse = hn::Div(one, scale);
}

/// Reads the parameters; false if one is not finite.
bool prepare(const float* row, int64_t K, const Components& to) {
    const DW d;
    VW most = hn::Set(d, -HUGE_VAL), sum = hn::Zero(d), poison = hn::Zero(d);
    for (int64_t k = 0; k < to.n; k += kWideLanes) {
        const size_t n = static_cast<size_t>(K - k < kWideLanes ? K - k : kWideLanes);
        const VW logit = widened(row + k, n), mean = widened(row + K + k, n), raw = widened(row + 2 * K + k, n);
        const VW zero = hn::Zero(d);
        poison = hn::MulAdd(logit, zero, hn::MulAdd(mean, zero, hn::MulAdd(raw, zero, poison)));
        const VW inside = hn::IfThenElse(hn::FirstN(d, n), logit, hn::Set(d, -HUGE_VAL));
        VW scale, inverse;
        scales_of(raw, scale, inverse);
        most = hn::Max(most, inside);
        hn::Store(inside, d, to.log_weight + k);
        hn::Store(mean, d, to.mean + k);
        hn::Store(scale, d, to.scale + k);
        hn::Store(inverse, d, to.inverse + k);
    }
    const double p = sum_of(poison);
    if (!(p == p)) return false;
    const VW top = hn::Set(d, max_of(most));
    for (int64_t k = 0; k < to.n; k += kWideLanes) {
        const VW log_weight = hn::Sub(hn::Load(d, to.log_weight + k), top), w = exp_nonpositive(log_weight);
        hn::Store(log_weight, d, to.log_weight + k);
        hn::Store(w, d, to.weight + k);
        sum = hn::Add(sum, w);
    }
    const VW scale = hn::Set(d, 1 / sum_of(sum));
    for (int64_t k = 0; k < to.n; k += kWideLanes)
        hn::Store(hn::Mul(hn::Load(d, to.weight + k), scale), d, to.weight + k);
    return true;
}

/// Counts of a row's scalars, which come one after the other.
void count(const View& out, const WideGroup& g, const int32_t* counts) {
    if (!out) return;
    for (int64_t lane = 0; lane < g.n; ++lane) {
        int32_t& sum = out.as<int32_t>()[g.row[lane]];
        sum = (g.i[lane] ? sum : 0) + counts[lane];
    }
}

/// A group's components, and its search.
struct GroupSearch {
    Search s = {};
    Components components[kWideLanes];

    GroupSearch(const View& parameters, const WideGroup& g, double* memory) {
        const int64_t K = parameters.shape[2] / 3, doubles = Components::kArrays * padded(K);
        for (int64_t lane = 0; lane < g.n; ++lane) {
            const Components& of = components[lane] = Components(memory + lane * doubles, K);
            s.active[lane] = prepare(parameters.at<const float>(g.row[lane], g.i[lane]), K, of);
        }
    }
};

void mixture_inverse_rows(const MixtureCdfInverse& p, double* memory, int64_t first, int64_t last) {
    int64_t row = first, i = 0;
    for (WideGroup g; g.take(row, i, last, p.u.shape[1]);) {
        GroupSearch group(p.parameters, g, memory);
        Search& s = group.s;
        for (int64_t lane = 0; lane < g.n; ++lane) {
            const double u = s.u.of[lane] = load_state(p.u, g.row[lane], g.i[lane]);
            s.active[lane] = s.active[lane] && std::isfinite(u);
            s.far[lane] = std::fabs(u) > kFar;
            if (!s.active[lane]) continue;
            bracket(group.components[lane], s, lane);
            s.active[lane] = std::isfinite(s.low.of[lane]) && std::isfinite(s.high.of[lane]);
            find_start(group.components[lane], s, lane);
        }
        search(s, group.components, g.n);
        int32_t failed[kWideLanes];
        for (int64_t lane = 0; lane < g.n; ++lane) {
            const bool sought = s.evaluations[lane] > 0;
            const double h =
                store_state(p.h, g.row[lane], g.i[lane], sought ? s.x.of[lane] : static_cast<double>(NAN), p.grid);
            failed[lane] = s.active[lane] || !sought || !std::isfinite(h);
        }
        count(p.failed, g, failed);
        count(p.evaluations, g, s.evaluations);
    }
}

/// Adds up rows whose scalars come one after the other.
void add(const View& out, const WideGroup& g, const double* terms, double& sum) {
    for (int64_t lane = 0; out && lane < g.n; ++lane) {
        sum = (g.i[lane] ? sum : 0) + terms[lane];
        out.as<float>()[g.row[lane]] = static_cast<float>(sum);
    }
}

/// Densities under this are taken by logarithms.
constexpr double kThin = 1e-290;

/// Forward of wide states: one evaluation of what the inverse searches.
void mixture_wide_rows(const MixtureCdf& p, double* memory, int64_t first, int64_t last) {
    const DW d;
    int64_t row = first, i = 0;
    double density = 0, det = 0;
    for (WideGroup g; g.take(row, i, last, p.h.shape[1]);) {
        GroupSearch group(p.parameters, g, memory);
        Search& s = group.s;
        for (int64_t lane = 0; lane < g.n; ++lane) {
            s.x.of[lane] = load_state(p.h, g.row[lane], g.i[lane]);
            if (s.active[lane]) evaluate(group.components[lane], s, lane);
        }
        Lanes u, log_density, log_slope;
        u.set(probit_of(s, false).z);
        bool any_far = false;
        for (int64_t lane = 0; lane < g.n; ++lane) {
            s.u.of[lane] = u.of[lane];
            const bool far = std::fabs(u.of[lane]) > kFar;
            if (!s.active[lane] || !(far || s.density.of[lane] < kThin)) continue;
            evaluate_far(group.components[lane], s, lane);
            any_far |= far;
        }
        const VW z = hn::IfThenElse(hn::Gt(hn::Abs(u.get()), hn::Set(d, kFar)), probit_of(s, any_far).z, u.get());
        const VW root = hn::Set(d, 0.39894228040143267794);
        const VW log_p = hn::Add(log_positive(hn::Mul(s.density.get(), root)), s.density_exponent.get());
        const VW log_normal = hn::MulAdd(hn::Mul(z, z), hn::Set(d, -0.5), hn::Set(d, -0.91893853320467274178));
        u.set(z);
        log_density.set(log_p);
        log_slope.set(hn::Sub(log_p, log_normal));
        for (int64_t lane = 0; lane < g.n; ++lane) {
            if (!s.active[lane] || !std::isfinite(s.x.of[lane]))
                u.of[lane] = log_density.of[lane] = log_slope.of[lane] = NAN;
            if (p.u) store_state(p.u, g.row[lane], g.i[lane], u.of[lane], p.grid);
        }
        add(p.log_density, g, log_density.of, density);
        add(p.log_det, g, log_slope.of, det);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(mixture_inverse_rows);
HWY_EXPORT(mixture_wide_rows);

namespace {

int64_t doubles_per_worker(const View& parameters) {
    constexpr int64_t kMostLanes = 8;
    return kMostLanes * kComponentArrays * ceil_div(parameters.shape[2] / 3, kMostLanes) * kMostLanes;
}

size_t workspace(const MixtureCdfInverse& p, const Stream& stream) {
    return wide_mixture_bytes(p.parameters, stream);
}

Status inverse(const MixtureCdfInverse& p, const Stream& stream, Workspace workspace) {
    const int64_t doubles = doubles_per_worker(p.parameters);
    double* memory = workspace.take<double>(doubles * stream.threads);
    for (int64_t r = 0; r < p.u.shape[0] && p.u.shape[1] == 0; ++r) {
        if (p.failed) p.failed.as<int32_t>()[r] = 0;
        if (p.evaluations) p.evaluations.as<int32_t>()[r] = 0;
    }
    parallel_mixtures(stream, p.parameters, [&](int64_t first, int64_t last, int worker) {
        HWY_DYNAMIC_DISPATCH(mixture_inverse_rows)(p, memory + worker * doubles, first, last);
    });
    return {};
}

}  // namespace

size_t wide_mixture_bytes(const View& parameters, const Stream& stream) {
    return workspace_bytes<double>(doubles_per_worker(parameters) * stream.threads);
}

void pass_wide_mixtures(const MixtureCdf& p, const Stream& stream, Workspace& workspace) {
    const int64_t doubles = doubles_per_worker(p.parameters);
    double* memory = workspace.take<double>(doubles * stream.threads);
    parallel_mixtures(stream, p.parameters, [&](int64_t first, int64_t last, int worker) {
        HWY_DYNAMIC_DISPATCH(mixture_wide_rows)(p, memory + worker * doubles, first, last);
    });
}

Op<MixtureCdfInverse> mixture_cdf_inverse_entry() {
    return {inverse, workspace};
}

}  // namespace noema::cpu
#endif
