// mixture_cdf_inverse: the search of the cpu backend, a scalar per 1 to 32 threads, which all hold the same state. A warp
// ends with its slowest scalar.
#include "cuda.h"
#include "noema/ops/mixture_cdf.h"
#include "probit_root.h"

namespace noema::cuda {

namespace {

struct Inverse {
    MixtureGrid of;
    const float* u;
    float* h;
    int32_t *failed, *evaluations;  // of every scalar; may be null
    int64_t u_stride, h_stride;
};

/// This thread's components as the search wants them; too many are made anew each time.
template <int kKept>
class Prepared {
 public:
    __device__ __forceinline__ Prepared(const MyComponents<kKept>& of, const MyScalar& me) : of_(of) {
        top_ = of.largest_logit(me);
        float sum = 0, poison = 0;
        of.each([&](int, int, float logit, float mean, float raw) {
            sum += expf(logit - top_);
            poison += 0.0f * logit + 0.0f * mean + 0.0f * raw;
        });
        sum = me.sum(sum);
        poison = me.sum(poison);
        finite = poison == poison;
        scale_ = 1.0f / sum;
        log_all = logf(sum);
        if constexpr (kKept > 0)
            of.each([&](int j, int, float logit, float mean, float raw) { kept_[j] = make(logit, mean, raw); });
    }
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        of_.each([&](int j, int, float logit, float mean, float raw) {
            if constexpr (kKept > 0)
                f(kept_[j]);
            else
                f(make(logit, mean, raw));
        });
    }

    bool finite;    // all parameters are
    float log_all;  // of the sum of the weights as log_weight has them

 private:
    __device__ __forceinline__ Component make(float logit, float mean, float raw) const {
        const float clip = softclip(raw).value, log_weight = logit - top_;
        return {log_weight, expf(log_weight) * scale_, mean, expf(clip), expf(-clip)};
    }
    const MyComponents<kKept>& of_;
    float top_, scale_;
    Component kept_[kKept > 0 ? kKept : 1];
};

template <int kKept>
__global__ void __launch_bounds__(kMixtureThreads, 2) mixture_cdf_inverse_scalars(Inverse p) {
    const MyScalar me(p.of);
    const MyComponents<kKept> components(p.of, me);
    const Prepared<kKept> of(components, me);
    const float u = p.u[me.row * p.u_stride + me.i];
    const Bracket bracket = bracket_of(of, me, u);
    const bool finite =
        of.finite && fabsf(u) <= FLT_MAX && fabsf(bracket.low) <= FLT_MAX && fabsf(bracket.high) <= FLT_MAX;
    Search s{u, start_of(of, me, u), bracket.low, bracket.high, bracket.high - bracket.low, fabsf(u) > kFar};
    s.x = min(max(s.x, s.low), s.high);
    bool active = finite;
    int evaluations = 0;
    for (int i = 0; i < kMostEvaluations && __any_sync(kAllLanes, active); ++i) {
        Sums at = evaluate(of, me, s.x);
        if (__any_sync(kAllLanes, active && s.far)) {
            const Sums far = evaluate_far(of, me, s.x);
            if (s.far) at = far;
        }
        if (!active) continue;
        ++evaluations;
        active = !step(s, at);
    }
    if (!me.writes) return;
    p.h[me.row * p.h_stride + me.i] = finite ? s.x : NAN;
    if (p.failed) p.failed[me.index] = active || !finite || !(fabsf(s.x) <= FLT_MAX);
    if (p.evaluations) p.evaluations[me.index] = evaluations;
}

size_t workspace(const MixtureCdfInverse& p, const Stream&) {
    const size_t one = workspace_bytes<int32_t>(p.u.size());
    return (p.failed ? one : 0) + (p.evaluations ? one : 0);
}

Status run(const MixtureCdfInverse& p, const Stream& stream, Workspace w) {
    const int64_t R = p.u.shape[0], c = p.u.shape[1];
    int32_t* failed = p.failed ? w.take<int32_t>(p.u.size()) : nullptr;
    int32_t* evaluations = p.evaluations ? w.take<int32_t>(p.u.size()) : nullptr;
    const Inverse n{mixture_grid(p.parameters),
                    p.u.as<float>(),
                    p.h.as<float>(),
                    failed,
                    evaluations,
                    p.u.stride[0],
                    p.h.stride[0]};
    NOEMA_TRY(with_kept(n.of, [&](auto kept) {
        return launch("mixture_cdf_inverse", stream, n.of.grid(), mixture_cdf_inverse_scalars<decltype(kept)::value>,
                      n);
    }));
    NOEMA_TRY(mixture_row_sums(failed, p.failed.as<int32_t>(), R, c, stream));
    return mixture_row_sums(evaluations, p.evaluations.as<int32_t>(), R, c, stream);
}

}  // namespace

Op<MixtureCdfInverse> mixture_cdf_inverse_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
