#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_draw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/mixture_cdf.h"
#include "cpu/mixture_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

/// The first component up to which the weights exp(logit - top) reach `uniform` of their sum; -1 if that is no number.
int64_t component_of(const float* logits, int64_t K, float top, float uniform, float* weights) {
    const DF d;
    VF sum = hn::Zero(d), most = hn::Set(d, top);
    for_each_vector(K, [&](auto load, auto store, int64_t k) HWY_ATTR {
        const VF x = hn::Sub(load(logits), most);
        const VF w = keep_nan(exp_nonpositive(x), x);
        store(w, weights);
        const size_t left = static_cast<size_t>(K - k);
        sum = hn::Add(sum, left < hn::Lanes(d) ? hn::IfThenElseZero(hn::FirstN(d, left), w) : w);
    });
    const float goal = uniform * sum_of(sum);
    if (!(goal == goal)) return -1;
    float reached = 0;
    int64_t last = 0;
    for (int64_t k = 0; k < K; ++k) {
        if (weights[k] > 0) last = k;
        reached += weights[k];
        if (reached >= goal && weights[k] > 0) break;
    }
    return last;
}

void mixture_draw_rows(const MixtureCdfDraw& p, float* weights, int64_t first, int64_t last) {
    const DF d;
    const int64_t K = p.parameters.shape[2] / 3;
    Groups groups(first, last, p.h.shape[1]);
    for (Group g; groups.next(g);) {
        const Mixtures of(p.parameters, g);
        HWY_ALIGN float top[kLanes], mean[kLanes], raw[kLanes];
        hn::Store(of.largest_logits(), d, top);
        for (int64_t s = 0; s < kLanes; ++s) {
            const float uniform = p.uniform.at<const float>(g.row[s])[g.i[s]];
            const int64_t k = s < g.n ? component_of(of.row[s], K, top[s], uniform, weights) : 0;
            mean[s] = k < 0 ? NAN : of.row[s][K + k];
            raw[s] = k < 0 ? NAN : of.row[s][2 * K + k];
        }
        const VF scale = exp_within(softclip(hn::Load(d, raw)).value);
        store_group(hn::MulAdd(scale, load_group(p.normal, g), hn::Load(d, mean)), p.h, g);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(mixture_draw_rows);

namespace {

size_t workspace(const MixtureCdfDraw& p, const Stream& stream) {
    return workspace_bytes<float>(p.parameters.shape[2] / 3 * stream.threads);
}

Status draw_values(const MixtureCdfDraw& p, const Stream& stream, Workspace workspace) {
    const int64_t K = p.parameters.shape[2] / 3;
    float* weights = workspace.take<float>(K * stream.threads);
    parallel_mixtures(stream, p.parameters, [&](int64_t first, int64_t last, int worker) {
        HWY_DYNAMIC_DISPATCH(mixture_draw_rows)(p, weights + worker * K, first, last);
    });
    return {};
}

}  // namespace

Op<MixtureCdfDraw> mixture_cdf_draw_entry() {
    return {draw_values, workspace};
}

}  // namespace noema::cpu
#endif
