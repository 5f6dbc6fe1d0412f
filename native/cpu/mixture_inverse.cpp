// mixture_cdf_inverse: as many scalars at a time as a vector has lanes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_inverse.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/mixture_cdf.h"
#include "cpu/probit_root-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

/// Reads the parameters; false if one is not finite.
bool prepare(const float* row, int64_t K, const Components& to) {
    const DF d;
    VF most = hn::Set(d, -HUGE_VALF), sum = hn::Zero(d), poison = hn::Zero(d);
    for (int64_t k = 0; k < to.n; k += kLanes) {
        const size_t n = static_cast<size_t>(K - k < kLanes ? K - k : kLanes);
        const VF logit = load_n(d, row + k, n), mean = load_n(d, row + K + k, n), raw = load_n(d, row + 2 * K + k, n);
        const VF zero = hn::Zero(d), clip = softclip(raw).value;
        poison = hn::MulAdd(logit, zero, hn::MulAdd(mean, zero, hn::MulAdd(raw, zero, poison)));
        const VF inside = hn::IfThenElse(hn::FirstN(d, n), logit, hn::Set(d, -HUGE_VALF));
        most = hn::Max(most, inside);
        hn::Store(inside, d, to.log_weight + k);
        hn::Store(mean, d, to.mean + k);
        hn::Store(exp_within(clip), d, to.scale + k);
        hn::Store(exp_within(hn::Neg(clip)), d, to.inverse + k);
    }
    const float p = sum_of(poison);
    if (!(p == p)) return false;
    const VF top = hn::Set(d, max_of(most));
    for (int64_t k = 0; k < to.n; k += kLanes) {
        const VF log_weight = hn::Sub(hn::Load(d, to.log_weight + k), top), w = exp_nonpositive(log_weight);
        hn::Store(log_weight, d, to.log_weight + k);
        hn::Store(w, d, to.weight + k);
        sum = hn::Add(sum, w);
    }
    const VF scale = hn::Set(d, 1.0f / sum_of(sum));
    for (int64_t k = 0; k < to.n; k += kLanes) hn::Store(hn::Mul(hn::Load(d, to.weight + k), scale), d, to.weight + k);
    return true;
}

/// Counts of a row's scalars, which come one after the other.
void count(const View& out, const Group& g, const int32_t* counts) {
    if (!out) return;
    for (int64_t lane = 0; lane < g.n; ++lane) {
        int32_t& sum = out.as<int32_t>()[g.row[lane]];
        sum = (g.i[lane] ? sum : 0) + counts[lane];
    }
}

void mixture_inverse_rows(const MixtureCdfInverse& p, float* memory, int64_t first, int64_t last) {
    const int64_t K = p.parameters.shape[2] / 3, floats = Components::kArrays * padded(K);
    Groups groups(first, last, p.u.shape[1]);
    for (Group g; groups.next(g);) {
        Search s = {};
        Components components[kLanes];
        s.u.set(load_group(p.u, g));
        for (int64_t lane = 0; lane < g.n; ++lane) {
            const Components& of = components[lane] = Components(memory + lane * floats, K);
            const float u = s.u.of[lane];
            s.active[lane] = prepare(p.parameters.at<const float>(g.row[lane], g.i[lane]), K, of) && std::isfinite(u);
            s.far[lane] = std::fabs(u) > kFar;
            if (!s.active[lane]) continue;
            bracket(of, s, lane);
            s.active[lane] = std::isfinite(s.low.of[lane]) && std::isfinite(s.high.of[lane]);
            find_start(of, s, lane);
        }
        search(s, components, g.n);
        int32_t failed[kLanes];
        for (int64_t lane = 0; lane < g.n; ++lane) {
            failed[lane] = s.active[lane] || s.evaluations[lane] == 0 || !std::isfinite(s.x.of[lane]);
            if (s.evaluations[lane] == 0) s.x.of[lane] = NAN;
        }
        store_group(s.x.get(), p.h, g);
        count(p.failed, g, failed);
        count(p.evaluations, g, s.evaluations);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(mixture_inverse_rows);

namespace {

int64_t floats_per_worker(const MixtureCdfInverse& p) {
    constexpr int64_t kMostLanes = 16, kArrays = 5;
    return kMostLanes * kArrays * ceil_div(p.parameters.shape[2] / 3, kMostLanes) * kMostLanes;
}

size_t workspace(const MixtureCdfInverse& p, const Stream& stream) {
    return workspace_bytes<float>(floats_per_worker(p) * stream.threads);
}

Status inverse(const MixtureCdfInverse& p, const Stream& stream, Workspace workspace) {
    const int64_t floats = floats_per_worker(p);
    float* memory = workspace.take<float>(floats * stream.threads);
    for (int64_t r = 0; r < p.u.shape[0] && p.u.shape[1] == 0; ++r) {
        if (p.failed) p.failed.as<int32_t>()[r] = 0;
        if (p.evaluations) p.evaluations.as<int32_t>()[r] = 0;
    }
    parallel_mixtures(stream, p.parameters, [&](int64_t first, int64_t last, int worker) {
        HWY_DYNAMIC_DISPATCH(mixture_inverse_rows)(p, memory + worker * floats, first, last);
    });
    return {};
}

}  // namespace

Op<MixtureCdfInverse> mixture_cdf_inverse_entry() {
    return {inverse, workspace};
}

}  // namespace noema::cpu
#endif
