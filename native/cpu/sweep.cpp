#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/sweep.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// Copies next to state; the largest change, infinite where one is NaN.
float move_wide_row(const double* next, double* state, int64_t n) {
    double most = 0;
    bool lost = false;
    for (int64_t i = 0; i < n; ++i) {
        const double moved = std::fabs(next[i] - state[i]);
        lost |= !std::isfinite(moved);
        most = moved > most ? moved : most;
        state[i] = next[i];
    }
    return lost ? HUGE_VALF : static_cast<float>(most);
}
float move_row(const float* next, float* state, int64_t n) {
    const DF d;
    VF most = hn::Zero(d), poison = hn::Zero(d);
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF to = load(next), moved = hn::Abs(hn::Sub(to, load(state)));
        most = hn::IfThenElse(hn::Gt(moved, most), moved, most);
        // NaN times zero is NaN, and so is infinity's: both mean that the sequence has not come to rest.
        poison = hn::MulAdd(moved, hn::Zero(d), poison);
        store(to, state);
    });
    return std::isnan(sum_of(poison)) ? HUGE_VALF : max_of(most);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(move_row);
HWY_EXPORT(move_wide_row);

namespace {

/// A row, or a part of it.
float move_part(const Sweep& p, int64_t b, int64_t first, int64_t n) {
    if (p.next.dtype == DType::f64)
        return HWY_DYNAMIC_DISPATCH(move_wide_row)(p.next.at<double>(b) + first, p.state.at<double>(b) + first, n);
    return HWY_DYNAMIC_DISPATCH(move_row)(p.next.at<float>(b) + first, p.state.at<float>(b) + first, n);
}

/// A row's runs between what is fixed of it.
float move_free_parts(const Sweep& p, int64_t b) {
    const int64_t m = p.fixed.shape[1], run = p.next.shape[1] / m;
    const uint8_t* fixed = p.fixed.at<uint8_t>(b);
    float most = 0;
    for (int64_t i = 0; i < m; ++i) {
        int64_t end = i;
        while (end < m && !fixed[end]) ++end;
        if (end > i) most = std::max(most, move_part(p, b, i * run, (end - i) * run));
        i = end;
    }
    return most;
}

// A task per sequence: few are longer than some thousand scalars.
Status run(const Sweep& p, const Stream& stream, Workspace) {
    float* change = p.change.as<float>();
    parallel_for(stream, p.next.shape[0], [&](int64_t b, int) {
        if (!(change[b] > p.tolerance)) return;
        change[b] = p.fixed ? move_free_parts(p, b) : move_part(p, b, 0, p.next.shape[1]);
        p.sweeps.as<int32_t>()[b] += 1;
    });
    return {};
}

}  // namespace

Op<Sweep> sweep_entry() {
    return {run, nullptr};
}

}  // namespace noema::cpu
#endif
