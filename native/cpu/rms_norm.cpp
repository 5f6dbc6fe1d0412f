#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/cpu.h"
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
        VF squares = hn::Zero(DF());
        for_each_vector(C, [&](auto load, auto, int64_t) HWY_ATTR { squares = hn::MulAdd(load(x), load(x), squares); });
        const float inv_rms = 1.0f / std::sqrt(sum_of(squares) / static_cast<float>(C) + p.epsilon);
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
    for (int64_t r = first; r < last; ++r) {
        const float* x = p.x.at<float>(r);
        const float* d_y = p.d_y.at<float>(r);
        float* d_x = p.d_x.at<float>(r);
        const float inv_rms = p.inv_rms.as<float>()[r * p.inv_rms.stride[0]];
        VF products = hn::Zero(DF());
        for_each_vector(C, [&](auto load, auto, int64_t) HWY_ATTR {
            products = hn::MulAdd(hn::Mul(load(d_y), load(weight)), load(x), products);
        });
        const VF scale = hn::Set(DF(), inv_rms);
        const VF projection = hn::Set(DF(), sum_of(products) * inv_rms / static_cast<float>(C));
        for_each_vector(C, [&](auto load, auto store, int64_t) HWY_ATTR {
            const VF n = hn::Mul(load(x), scale);
            VF g = hn::Mul(scale, hn::NegMulAdd(n, projection, hn::Mul(load(d_y), load(weight))));
            if (p.accumulate_x) g = hn::Add(g, load(d_x));
            if (d_weight) store(hn::MulAdd(load(d_y), n, load(d_weight)), d_weight);
            store(g, d_x);
        });
    }
}

void add_rows(float* sum, const float* parts, int64_t rows, int64_t C) {
    for (int64_t r = 0; r < rows; ++r)
        for_each_vector(
            C, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::Add(load(sum), load(parts + r * C)), sum); });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(norm_rows);
HWY_EXPORT(norm_rows_backward);
HWY_EXPORT(add_rows);

namespace {

// Rows per task, and per chunk of parameter gradients. Fixed, so that the order of sums depends on shapes only.
constexpr int64_t kRows = 64;

int64_t chunks(int64_t rows) {
    return (rows + kRows - 1) / kRows;
}

Status forward(const RmsNorm& p, const Stream& stream, Workspace) {
    const int64_t R = p.x.shape[0];
    parallel_for(stream, chunks(R), [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(norm_rows)(p, i * kRows, std::min(R, (i + 1) * kRows));
    });
    return {};
}

size_t backward_workspace(const RmsNormBackward& p, const Stream&) {
    return p.d_weight ? workspace_bytes<float>(chunks(p.x.shape[0]) * p.x.shape[1]) : 0;
}

Status backward(const RmsNormBackward& p, const Stream& stream, Workspace workspace) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1], n = chunks(R);
    float* parts = p.d_weight ? workspace.take<float>(n * C) : nullptr;
    if (parts) std::memset(parts, 0, sizeof(float) * n * C);
    parallel_for(stream, n, [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(norm_rows_backward)
        (p, parts ? parts + i * C : nullptr, i * kRows, std::min(R, (i + 1) * kRows));
    });
    if (parts) HWY_DYNAMIC_DISPATCH(add_rows)(p.d_weight.as<float>(), parts, n, C);
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
