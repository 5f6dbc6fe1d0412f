#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/layer_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>

#include "cpu/column_sums.h"
#include "cpu/cpu.h"
#include "cpu/layer_norm.h"
#include "cpu/rows-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

const float* row_or_null(const View& v, int64_t r) {
    return v ? v.at<float>(r) : nullptr;
}

struct Moments {
    float mean, inv_std;
};

// Two passes, the second over values in L1: the mean of squares minus the square of the mean would cancel.
Moments moments(const float* x, int64_t C, float epsilon) {
    const VF one = hn::Set(DF(), 1.0f);
    const float mean = sum_products(C, [&](auto load) HWY_ATTR { return Factors{load(x), one}; }) / C;
    const VF centre = hn::Set(DF(), mean);
    const float squares = sum_products(C, [&](auto load) HWY_ATTR {
        const VF centred = hn::Sub(load(x), centre);
        return Factors{centred, centred};
    });
    return {mean, 1.0f / std::sqrt(squares / static_cast<float>(C) + epsilon)};
}

void layer_norm_rows(const LayerNorm& p, int64_t first, int64_t last) {
    const int64_t C = p.x.shape[1];
    const VF one = hn::Set(DF(), 1.0f);
    const float *weight = p.weight.as<float>(), *bias = p.bias.as<float>();
    for (int64_t r = first; r < last; ++r) {
        const float* x = p.x.at<float>(r);
        const float *scale = row_or_null(p.scale, r / p.rows_per_sequence),
                    *shift = row_or_null(p.shift, r / p.rows_per_sequence);
        float* y = p.y.at<float>(r);
        const Moments m = moments(x, C, p.epsilon);
        const VF mean = hn::Set(DF(), m.mean), inv_std = hn::Set(DF(), m.inv_std);
        for_each_vector(C, [&](auto load, auto store, int64_t) HWY_ATTR {
            VF v = hn::Mul(hn::Sub(load(x), mean), inv_std);
            if (weight) v = hn::Mul(v, load(weight));
            if (bias) v = hn::Add(v, load(bias));
            if (scale) v = hn::MulAdd(v, hn::Add(load(scale), one), load(shift));
            store(v, y);
        });
        if (!p.mean) continue;
        *p.mean.at<float>(r) = m.mean;
        *p.inv_std.at<float>(r) = m.inv_std;
    }
}

// Rows [first, last), all of one sequence. The sums are this chunk's own rows, or null.
void layer_norm_rows_backward(const LayerNormBackward& p, LayerNormSums sums, int64_t first, int64_t last) {
    const int64_t C = p.x.shape[1];
    const VF one = hn::Set(DF(), 1.0f);
    const float *weight = p.weight.as<float>(), *bias = p.bias.as<float>();
    const float* scale = row_or_null(p.scale, first / p.rows_per_sequence);
    for (float* sum : {sums.weight, sums.bias, sums.scale, sums.shift})
        if (sum) std::memset(sum, 0, sizeof(float) * C);
    for (int64_t r = first; r < last; ++r) {
        const float *x = p.x.at<float>(r), *d_y = p.d_y.at<float>(r);
        float* d_x = p.d_x.at<float>(r);
        const VF mean = hn::Set(DF(), *p.mean.at<float>(r)), inv_std = hn::Set(DF(), *p.inv_std.at<float>(r));
        const auto normalised = [&](auto load) HWY_ATTR { return hn::Mul(hn::Sub(load(x), mean), inv_std); };
        const auto d_plain = [&](auto load)
                                 HWY_ATTR { return scale ? hn::Mul(load(d_y), hn::Add(load(scale), one)) : load(d_y); };
        const auto d_n = [&](auto load)
                             HWY_ATTR { return weight ? hn::Mul(d_plain(load), load(weight)) : d_plain(load); };
        const float total = sum_products(C, [&](auto load) HWY_ATTR { return Factors{d_n(load), one}; });
        const float product = sum_products(C, [&](auto load) HWY_ATTR { return Factors{d_n(load), normalised(load)}; });
        const VF average = hn::Set(DF(), total / static_cast<float>(C));
        const VF projection = hn::Set(DF(), product / static_cast<float>(C));
        for_each_vector(C, [&](auto load, auto store, int64_t) HWY_ATTR {
            const VF n = normalised(load), plain = d_plain(load), g = load(d_y);
            VF d = hn::Mul(inv_std, hn::NegMulAdd(n, projection, hn::Sub(d_n(load), average)));
            if (p.accumulate_x) d = hn::Add(d, load(d_x));
            if (sums.weight) store(hn::MulAdd(plain, n, load(sums.weight)), sums.weight);
            if (sums.bias) store(hn::Add(plain, load(sums.bias)), sums.bias);
            if (sums.scale) {
                VF y = weight ? hn::Mul(n, load(weight)) : n;
                if (bias) y = hn::Add(y, load(bias));
                store(hn::MulAdd(g, y, load(sums.scale)), sums.scale);
            }
            if (sums.shift) store(hn::Add(g, load(sums.shift)), sums.shift);
            store(d, d_x);
        });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(layer_norm_rows);
HWY_EXPORT(layer_norm_rows_backward);

namespace {

Status forward(const LayerNorm& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.x.shape[0], p.x.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(layer_norm_rows)(p, first, last);
    });
    return {};
}

RowChunks chunks(const LayerNormBackward& p) {
    const int64_t R = p.x.shape[0];
    return {R, p.scale ? p.rows_per_sequence : std::max<int64_t>(1, R)};
}

size_t backward_workspace(const LayerNormBackward& p, const Stream&) {
    const size_t one = workspace_bytes<float>(chunks(p).count() * p.x.shape[1]);
    size_t sums = 0;
    for (const View* v : {&p.d_weight, &p.d_bias, &p.d_scale, &p.d_shift}) sums += !v->empty();
    return sums * one;
}

/// `gradient` [C] or [B,C], from one row of sums per chunk.
void gather(const View& gradient, const float* parts, const RowChunks& rows, const Stream& stream) {
    if (!parts) return;
    const bool shared = gradient.rank == 1;
    const int64_t groups = shared ? 1 : rows.sequences(), C = gradient.shape[gradient.rank - 1];
    column_sums({parts, groups, shared ? rows.count() : rows.per_sequence(), C, gradient.as<float>(),
                 shared ? C : gradient.stride[0], shared},
                stream);
}

Status backward(const LayerNormBackward& p, const Stream& stream, Workspace workspace) {
    const int64_t C = p.x.shape[1];
    const RowChunks rows = chunks(p);
    const auto take = [&](const View& v) { return v ? workspace.take<float>(rows.count() * C) : nullptr; };
    const LayerNormSums all{take(p.d_weight), take(p.d_bias), take(p.d_scale), take(p.d_shift)};
    parallel_for(stream, rows.count(), [&](int64_t i, int) {
        const auto mine = [&](float* parts) { return parts ? parts + i * C : nullptr; };
        const LayerNormSums sums{mine(all.weight), mine(all.bias), mine(all.scale), mine(all.shift)};
        HWY_DYNAMIC_DISPATCH(layer_norm_rows_backward)(p, sums, rows.first(i), rows.last(i));
    });
    gather(p.d_weight, all.weight, rows, stream);
    gather(p.d_bias, all.bias, rows, stream);
    gather(p.d_scale, all.scale, rows, stream);
    gather(p.d_shift, all.shift, rows, stream);
    return {};
}

}  // namespace

Op<LayerNorm> layer_norm_entry() {
    return {forward, nullptr};
}
Op<LayerNormBackward> layer_norm_backward_entry() {
    return {backward, backward_workspace};
}

}  // namespace noema::cpu
#endif
