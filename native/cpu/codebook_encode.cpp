#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/codebook_encode.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/cpu.h"
#include "cpu/rows-inl.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void encode_rows(const CodebookEncode& p, int64_t first, int64_t last) {
    const int64_t d = p.z.shape[1];
    for (int64_t r = first; r < last; ++r) {
        const int32_t k = p.ids.as<int32_t>()[r];
        const VF sigma = hn::Set(DF(), std::exp(p.log_sigma.as<float>()[k]));
        const float *mean = p.mean.at<float>(k), *eps = p.eps.at<float>(r);
        float* z = p.z.at<float>(r);
        for_each_vector(
            d, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::MulAdd(sigma, load(eps), load(mean)), z); });
    }
}

/// The rows whose ids lie in [low, high), in order.
void scatter_rows(const CodebookEncodeBackward& p, int32_t low, int32_t high) {
    const int64_t R = p.d_z.shape[0], d = p.d_z.shape[1];
    for (int64_t r = 0; r < R; ++r) {
        const int32_t k = p.ids.as<int32_t>()[r];
        if (k < low || k >= high) continue;
        const float *d_z = p.d_z.at<float>(r), *eps = p.eps.at<float>(r);
        float* d_mean = p.d_mean.at<float>(k);
        const float product = sum_products(d, [&](auto load) HWY_ATTR { return Factors{load(d_z), load(eps)}; });
        p.d_log_sigma.as<float>()[k] += product * std::exp(p.log_sigma.as<float>()[k]);
        for_each_vector(
            d, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::Add(load(d_mean), load(d_z)), d_mean); });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(encode_rows);
HWY_EXPORT(scatter_rows);

namespace {

Status forward(const CodebookEncode& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.z.shape[0], 4 * p.z.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(encode_rows)(p, first, last);
    });
    return {};
}

// Tasks own ranges of ids, and each looks at all rows in order: equal ids add up in ascending r without atomics. One task per 16 K elements,
// at most 16: looking at a row of another's costs a tenth of adding one.
Status backward(const CodebookEncodeBackward& p, const Stream& stream, Workspace) {
    const int64_t V = p.d_mean.shape[0],
                  tasks = std::clamp<int64_t>(p.d_z.size() / kTaskElements, 1, std::min<int64_t>(16, V));
    parallel_for(stream, tasks, [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(scatter_rows)
        (p, static_cast<int32_t>(i * V / tasks), static_cast<int32_t>((i + 1) * V / tasks));
    });
    return {};
}

}  // namespace

Op<CodebookEncode> codebook_encode_entry() {
    return {forward, nullptr};
}
Op<CodebookEncodeBackward> codebook_encode_backward_entry() {
    return {backward, nullptr};
}

}  // namespace noema::cpu
#endif
