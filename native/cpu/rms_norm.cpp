#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "cpu/column_sums.h"
#include "cpu/cpu.h"
#include "cpu/rows-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void norm_rows(const RmsNorm& p, int64_t first, int64_t last) {
    const int64_t C = p.x.shape[1];
    const float* weight = p.weight.as<float>();
    for (int64_t r = first; r < last; ++r) {
        const float* x = p.x.at<float>(r);
        float* y = p.y.at<float>(r);
        const float squares = sum_products(C, [&](auto load) HWY_ATTR {
            const VF v = load(x);
            return Factors{v, v};
        });
        const float inv_rms = 1.0f / std::sqrt(squares / static_cast<float>(C) + p.epsilon);
        const VF scale = hn::Set(DF(), inv_rms);
        for_each_vector(C, [&](auto load, auto store, int64_t)
                               HWY_ATTR { store(hn::Mul(hn::Mul(load(x), scale), load(weight)), y); });
        if (p.inv_rms) p.inv_rms.as<float>()[r * p.inv_rms.stride[0]] = inv_rms;
    }
}

// With n = x inv_rms: dx = inv_rms (d_y w - n mean(d_y w n)); d_weight += d_y n, into this chunk's own row of sums.
void norm_rows_backward(const RmsNormBackward& p, float* d_weight, int64_t first, int64_t last) {
    const int64_t C = p.x.shape[1];
    const float* weight = p.weight.as<float>();
    if (d_weight) std::memset(d_weight, 0, sizeof(float) * C);
    for (int64_t r = first; r < last; ++r) {
        const float* x = p.x.at<float>(r);
        const float* d_y = p.d_y.at<float>(r);
        float* d_x = p.d_x.at<float>(r);
        const float inv_rms = p.inv_rms.as<float>()[r * p.inv_rms.stride[0]];
        const float products = sum_products(C, [&](auto load) HWY_ATTR {
            return Factors{hn::Mul(load(d_y), load(weight)), load(x)};
        });
        const VF scale = hn::Set(DF(), inv_rms);
        const VF projection = hn::Set(DF(), products * inv_rms / static_cast<float>(C));
        for_each_vector(C, [&](auto load, auto store, int64_t) HWY_ATTR {
            const VF n = hn::Mul(load(x), scale);
            VF g = hn::Mul(scale, hn::NegMulAdd(n, projection, hn::Mul(load(d_y), load(weight))));
            if (p.accumulate_x) g = hn::Add(g, load(d_x));
            if (d_weight) store(hn::MulAdd(load(d_y), n, load(d_weight)), d_weight);
            store(g, d_x);
        });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(norm_rows);
HWY_EXPORT(norm_rows_backward);

namespace {

Status forward(const RmsNorm& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.x.shape[0], p.x.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(norm_rows)(p, first, last);
    });
    return {};
}

RowChunks chunks(const RmsNormBackward& p) {
    return {p.x.shape[0], std::max<int64_t>(1, p.x.shape[0])};
}

size_t backward_workspace(const RmsNormBackward& p, const Stream&) {
    return p.d_weight ? workspace_bytes<float>(chunks(p).count() * p.x.shape[1]) : 0;
}

Status backward(const RmsNormBackward& p, const Stream& stream, Workspace workspace) {
    const int64_t C = p.x.shape[1];
    const RowChunks rows = chunks(p);
    float* parts = p.d_weight ? workspace.take<float>(rows.count() * C) : nullptr;
    parallel_for(stream, rows.count(), [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(norm_rows_backward)(p, parts ? parts + i * C : nullptr, rows.first(i), rows.last(i));
    });
    if (parts) column_sums({parts, 1, rows.count(), C, p.d_weight.as<float>(), C, true}, stream);
    return {};
}

}  // namespace

Op<RmsNorm> rms_norm_entry() {
    return {forward, nullptr};
}
Op<RmsNormBackward> rms_norm_backward_entry() {
    return {backward, backward_workspace};
}

}  // namespace noema::cpu
#endif
