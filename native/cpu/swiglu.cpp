#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/swiglu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/activations-inl.h"
#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void swiglu_rows(const Swiglu& p, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
        const float *gate = p.gate.at<float>(r), *up = p.up.at<float>(r);
        float* y = p.y.at<float>(r);
        for_each_vector(p.gate.shape[1], [&](auto load, auto store, int64_t)
                                             HWY_ATTR { store(hn::Mul(silu(load(gate)), load(up)), y); });
    }
}

void swiglu_rows_backward(const SwigluBackward& p, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
        const float *gate = p.gate.at<float>(r), *up = p.up.at<float>(r), *d_y = p.d_y.at<float>(r);
        float *d_gate = p.d_gate.at<float>(r), *d_up = p.d_up.at<float>(r);
        for_each_vector(p.gate.shape[1], [&](auto load, auto store, int64_t) HWY_ATTR {
            const VF x = load(gate), g = load(d_y), u = load(up);
            const Logistic s = logistic(x);
            store(hn::Mul(hn::Mul(g, u), silu_slope(x, s)), d_gate);
            store(hn::Mul(g, hn::Mul(x, s.rising)), d_up);
        });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(swiglu_rows);
HWY_EXPORT(swiglu_rows_backward);

namespace {

Status forward(const Swiglu& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.gate.shape[0], p.gate.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(swiglu_rows)(p, first, last);
    });
    return {};
}

Status backward(const SwigluBackward& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.gate.shape[0], p.gate.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(swiglu_rows_backward)(p, first, last);
    });
    return {};
}

}  // namespace

Op<Swiglu> swiglu_entry() {
    return {forward, nullptr};
}
Op<SwigluBackward> swiglu_backward_entry() {
    return {backward, nullptr};
}

}  // namespace noema::cpu
#endif
