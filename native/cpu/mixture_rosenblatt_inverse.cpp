// mixture_rosenblatt_inverse: scalar after scalar, of as many tokens side by side as a vector has lanes (fewer where components are many):
// each scalar is one search of probit_root-inl.h. mixture_rosenblatt_draw: one component for the whole token.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_rosenblatt_inverse.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/rosenblatt-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// Tokens side by side on their way back.
struct Batch {
    Posterior posterior[kLanes];
    Components components[kLanes];
    int32_t failed[kLanes], evaluations[kLanes];
    int64_t n;
};

/// log of the normal distribution beyond a > 0.
float log_tail(float a) {
    return hn::GetLane(log_positive(tail_factor(hn::Set(DF(), a)))) - 0.5f * a * a;
}

/// Prepares the search for scalar i of a token; false where there is none to find.
bool prepare(Batch& batch, Search& s, int64_t lane, float u) {
    if (batch.posterior[lane].broken() || !std::isfinite(u)) return false;
    Components& of = batch.components[lane];
    if (std::fabs(u) > kPrunedWithin)
        batch.posterior[lane].gather_far(of, log_tail(std::fabs(u)));
    else
        batch.posterior[lane].gather(of);
    s.u.of[lane] = u;
    s.far[lane] = std::fabs(u) > kFar;
    bracket(of, s, lane);
    find_start(of, s, lane);
    return true;
}

void invert_scalar(const MixtureRosenblattInverse& p, Batch& batch, int64_t row, int64_t i) {
    Search s = {};
    for (int64_t lane = 0; lane < batch.n; ++lane)
        s.active[lane] = prepare(batch, s, lane, p.u.at<const float>(row + lane)[i]);
    search(s, batch.components, batch.n);
    for (int64_t lane = 0; lane < batch.n; ++lane) {
        const bool found = s.evaluations[lane] > 0 && !s.active[lane] && std::isfinite(s.x.of[lane]);
        const float z = s.evaluations[lane] > 0 ? s.x.of[lane] : NAN;
        batch.failed[lane] += found ? 0 : 1;
        batch.evaluations[lane] += s.evaluations[lane];
        p.z.at<float>(row + lane)[i] = z;
        if (!batch.posterior[lane].broken()) batch.posterior[lane].pass(z);
    }
}

void inverse_rows(const MixtureRosenblattInverse& p, const ComponentTable& table, const InverseMemory& memory,
                  int64_t first, int64_t last) {
    Batch batch;
    const int64_t most = std::min<int64_t>(kLanes, InverseMemory::tokens(table.K));
    for (int64_t row = first; row < last; row += most) {
        batch.n = std::min(most, last - row);
        for (int64_t lane = 0; lane < batch.n; ++lane) {
            batch.posterior[lane] = Posterior(table, memory.posterior(lane));
            batch.components[lane] = Components(memory.components(lane), table.K + kLanes);
            batch.posterior[lane].start(p.logits.at<const float>(row + lane));
            batch.failed[lane] = batch.evaluations[lane] = 0;
        }
        for (int64_t i = 0; i < table.d; ++i) invert_scalar(p, batch, row, i);
        for (int64_t lane = 0; lane < batch.n; ++lane) {
            if (p.failed) p.failed.as<int32_t>()[row + lane] = batch.failed[lane];
            if (p.evaluations) p.evaluations.as<int32_t>()[row + lane] = batch.evaluations[lane];
        }
    }
}

/// Weights are added up by chunks, and one by one in the chunk that decides.
constexpr int64_t kChunk = 256;

/// exp(logit - most) of a chunk's components, and their sum.
float weights_of(const float* logits, int64_t n, float most, float (&weights)[kChunk]) {
    VF sum = hn::Zero(DF());
    for_each_vector(n, [&](auto load, auto store, int64_t k) HWY_ATTR {
        const VF x = hn::Sub(load(logits), hn::Set(DF(), most)), w = keep_nan(exp_nonpositive(x), x);
        store(w, weights);
        const size_t left = static_cast<size_t>(n - k);
        sum = hn::Add(sum, left < hn::Lanes(DF()) ? hn::IfThenElseZero(hn::FirstN(DF(), left), w) : w);
    });
    return sum_of(sum);
}

/// The first component up to which the weights reach `uniform` of their sum; -1 if that is no number.
int64_t component_of(const float* logits, int64_t K, float uniform) {
    float weights[kChunk], most = -HUGE_VALF;
    for (int64_t k = 0; k < K; ++k) most = most < logits[k] ? logits[k] : most;
    const auto sum_at = [&](int64_t k) HWY_ATTR {
        return static_cast<double>(weights_of(logits + k, std::min(kChunk, K - k), most, weights));
    };
    double all = 0, reached = 0, before = 0;
    for (int64_t k = 0; k < K; k += kChunk) all += sum_at(k);
    const double goal = uniform * all;
    if (!(goal == goal)) return -1;
    int64_t chunk = 0, found = 0;
    for (int64_t k = 0; k < K && (k == 0 || reached < goal); k += kChunk) {
        const double sum = sum_at(k);
        if (sum > 0) chunk = k, before = reached;
        reached += sum;
    }
    sum_at(chunk);
    for (int64_t k = 0; k < std::min(kChunk, K - chunk); ++k) {
        before += static_cast<double>(weights[k]);
        if (weights[k] > 0) found = chunk + k;
        if (weights[k] > 0 && before >= goal) break;
    }
    return found;
}

void draw_rows(const MixtureRosenblattDraw& p, int64_t first, int64_t last) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    for (int64_t r = first; r < last; ++r) {
        const int64_t k = component_of(p.logits.at<const float>(r), K, p.uniform.as<const float>()[r]);
        const float *mean = p.mean.at<const float>(k < 0 ? 0 : k), *normal = p.normal.at<const float>(r);
        const VF sigma = hn::Set(DF(), k < 0 ? NAN : std::exp(p.log_sigma.as<const float>()[k]));
        float* z = p.z.at<float>(r);
        for_each_vector(
            d, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::MulAdd(sigma, load(normal), load(mean)), z); });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(inverse_rows);
HWY_EXPORT(draw_rows);

namespace {

size_t workspace(const MixtureRosenblattInverse& p, const Stream& stream) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(K, d) + workspace_bytes<float>(InverseMemory::floats(K, d) * stream.threads);
}

Status run(const MixtureRosenblattInverse& p, const Stream& stream, Workspace w) {
    const ComponentTable table = component_table(p.mean, p.log_sigma, stream, w);
    const int64_t R = p.u.shape[0], rows = InverseMemory::tokens(table.K),
                  floats = InverseMemory::floats(table.K, table.d);
    float* memory = w.take<float>(floats * stream.threads);
    parallel_for(stream, ceil_div(R, rows), [&](int64_t i, int worker) {
        invert_tokens(p, table, {memory + worker * floats, table.K, table.d}, i * rows, std::min(R, (i + 1) * rows));
    });
    return {};
}

Status run_draw(const MixtureRosenblattDraw& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.z.shape[0], 2 * p.logits.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(draw_rows)(p, first, last);
    });
    return {};
}

}  // namespace

void invert_tokens(const MixtureRosenblattInverse& p, const ComponentTable& table, const InverseMemory& memory,
                   int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(inverse_rows)(p, table, memory, first, last);
}

Op<MixtureRosenblattInverse> mixture_rosenblatt_inverse_entry() {
    return {run, workspace};
}
Op<MixtureRosenblattDraw> mixture_rosenblatt_draw_entry() {
    return {run_draw, nullptr};
}

}  // namespace noema::cpu
#endif
