#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/draw.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "cpu/cpu.h"
#include "cpu/random-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

// 1e-10 - log(u + 1e-10) for u in [0, 1). Near 1 the sum u + 1e-10 would be lost in f32, so there log(u + e) is
// log(u) + e / u (the next term is 1e-20 of 6e-8).
HWY_INLINE VF noise_of(VF u) {
    const DF d;
    const VF tiny = hn::Set(d, 1e-10f);
    const VF small = hn::Sub(tiny, log_positive(hn::Add(hn::Min(u, hn::Set(d, 0.5f)), tiny)));
    const VF safe = hn::Max(u, hn::Set(d, 0.5f));
    const VF large = hn::Sub(hn::Sub(tiny, hn::Div(tiny, safe)), log_positive(safe));
    return hn::IfThenElse(hn::Lt(u, hn::Set(d, 0.5f)), small, large);
}

// Ranks like weight / noise^temperature. Other temperatures than 0 and 1 compare logarithms: powers overflow f32.
HWY_INLINE VF score_of(VF weight, VF noise, float temperature) {
    const DF d;
    if (temperature == 0.0f) return weight;
    if (temperature == 1.0f) return hn::Div(weight, noise);
    const VF positive = log_positive(hn::Max(weight, hn::Set(d, 1.17549435e-38f)));
    const VF log_weight = hn::IfThenElse(hn::Gt(weight, hn::Zero(d)), positive, hn::Set(d, -HUGE_VALF));
    return hn::NegMulAdd(hn::Set(d, temperature), log_positive(noise), log_weight);
}

struct Best {
    float score;
    int32_t index;
};

// Scalar: a row has a handful of candidates, and only lanes above the best so far come here.
HWY_INLINE void take_best(VF score, int64_t first, size_t n, Best& best) {
    const DF d;
    if (hn::AllFalse(d, hn::And(hn::FirstN(d, n), hn::Gt(score, hn::Set(d, best.score))))) return;
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(score, d, lanes);
    for (size_t i = 0; i < n; ++i)
        if (lanes[i] > best.score) best = {lanes[i], static_cast<int32_t>(first) + static_cast<int32_t>(i)};
}

// The weights at..at + n - 1 of a row.
HWY_INLINE VF weights_of(const Draw& p, int64_t r, int64_t at, size_t n) {
    const DF d;
    const VF scaled = hn::Mul(load_n(d, p.weight.at<float>(r) + at, n), hn::Set(d, p.scale));
    if (p.last < 0 || at + static_cast<int64_t>(n) < p.weight.shape[1]) return scaled;
    return hn::IfThenElse(hn::FirstN(d, n - 1), scaled, hn::Set(d, p.last));
}

// A vector of uniforms per step; seeded ones come in pairs of vectors.
Best draw_row(const Draw& p, int64_t r) {
    const DF d;
    const int64_t K = p.weight.shape[1], L = static_cast<int64_t>(hn::Lanes(d));
    const uint64_t seed = p.seeds ? static_cast<uint64_t>(p.seeds.as<int64_t>()[r]) : 0;
    const uint32_t position = p.positions ? static_cast<uint32_t>(p.positions.as<int32_t>()[r]) : 0;
    const int64_t step = p.steps ? p.steps.as<int32_t>()[r] : p.step;
    const RowUniforms uniforms(seed, RngStream::remask, static_cast<uint32_t>(step), position);
    Best best{-HUGE_VALF, 0};
    for (int64_t j = 0; j < K; j += 2 * L) {
        VF u[2];
        if (!p.uniforms) uniforms.next(static_cast<uint32_t>(j), u[0], u[1]);
        for (int64_t part = 0; part < 2 && j + part * L < K; ++part) {
            const int64_t at = j + part * L;
            const size_t n = static_cast<size_t>(HWY_MIN(L, K - at));
            const VF given = p.uniforms ? load_n(d, p.uniforms.at<float>(r) + at, n) : u[part];
            take_best(score_of(weights_of(p, r, at, n), noise_of(given), p.temperature), at, n, best);
        }
    }
    return best;
}

void draw_rows(const Draw& p, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) p.index.as<int32_t>()[r] = draw_row(p, r).index;
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(draw_rows);

namespace {

// Candidates per task: about 20 us of work.
constexpr int64_t kCandidates = 8192;

Status run(const Draw& p, const Stream& stream, Workspace) {
    const int64_t R = p.weight.shape[0];
    const int64_t group = std::max<int64_t>(1, kCandidates / std::max<int64_t>(16, p.weight.shape[1]));
    parallel_for(stream, (R + group - 1) / group, [&](int64_t task, int) {
        HWY_DYNAMIC_DISPATCH(draw_rows)(p, task * group, std::min(R, (task + 1) * group));
    });
    return {};
}

}  // namespace

Op<Draw> draw_entry() {
    return {run, nullptr};
}

}  // namespace noema::cpu
#endif
