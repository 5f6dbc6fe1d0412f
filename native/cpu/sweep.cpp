#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/sweep.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

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

// A task per sequence: few are longer than some thousand scalars.
Status run(const Sweep& p, const Stream& stream, Workspace) {
    float* change = p.change.as<float>();
    parallel_for(stream, p.next.shape[0], [&](int64_t b, int) {
        if (!(change[b] > p.tolerance)) return;
        const int64_t n = p.next.shape[1];
        change[b] = p.next.dtype == DType::f64
                        ? HWY_DYNAMIC_DISPATCH(move_wide_row)(p.next.at<double>(b), p.state.at<double>(b), n)
                        : HWY_DYNAMIC_DISPATCH(move_row)(p.next.at<float>(b), p.state.at<float>(b), n);
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
