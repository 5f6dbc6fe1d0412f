#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gelu.cpp"
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

void gelu_row(const float* x, float* y, int64_t n, Activation form) {
    if (form == Activation::gelu_tanh)
        for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR { store(gelu_tanh(load(x)), y); });
    else
        for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR { store(gelu_erf(load(x)), y); });
}

void gelu_rows(const Gelu& p, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) gelu_row(p.x.at<float>(r), p.y.at<float>(r), p.x.shape[1], p.form);
}

void gelu_rows_backward(const GeluBackward& p, int64_t first, int64_t last) {
    const int64_t F = p.x.shape[1];
    for (int64_t r = first; r < last; ++r) {
        const float *x = p.x.at<float>(r), *d_y = p.d_y.at<float>(r);
        float* d_x = p.d_x.at<float>(r);
        if (p.form == Activation::gelu_tanh)
            for_each_vector(F, [&](auto load, auto store, int64_t)
                                   HWY_ATTR { store(hn::Mul(load(d_y), gelu_tanh_slope(load(x))), d_x); });
        else
            for_each_vector(F, [&](auto load, auto store, int64_t)
                                   HWY_ATTR { store(hn::Mul(load(d_y), gelu_erf_slope(load(x))), d_x); });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(gelu_rows);
HWY_EXPORT(gelu_rows_backward);

namespace {

Status forward(const Gelu& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.x.shape[0], p.x.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(gelu_rows)(p, first, last);
    });
    return {};
}

Status backward(const GeluBackward& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.x.shape[0], p.x.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(gelu_rows_backward)(p, first, last);
    });
    return {};
}

}  // namespace

Op<Gelu> gelu_entry() {
    return {forward, nullptr};
}
Op<GeluBackward> gelu_backward_entry() {
    return {backward, nullptr};
}

}  // namespace noema::cpu
#endif
