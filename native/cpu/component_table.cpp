#include "cpu/component_table.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/component_table.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <limits>

#include "cpu/mixture_lanes-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// The rows inv_sigma, half_inv_var (an exp of its own: log N of a far value has that value's relative error) and
/// neg_log_sigma of n components.
void invert_sigmas(const float* log_sigma, float* rows, int64_t stride, int64_t n) {
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF x = hn::Neg(load(log_sigma));
        store(exp_any(x), rows);
        store(hn::Mul(exp_any(hn::Add(x, x)), hn::Set(DF(), 0.5f)), rows + stride);
        store(x, rows + 2 * stride);
    });
}

/// Rows [first, last) of mean [K,d] as columns of `to`, a vector of rows and four columns at a time.
void transpose_rows(const View& mean, int64_t first, int64_t last, float* to, int64_t stride) {
    const DF d;
    const int64_t width = mean.shape[1];
    for (int64_t k = first; k < last; k += kLanes) {
        const float* rows[kLanes];
        const size_t n = static_cast<size_t>(last - k < kLanes ? last - k : kLanes);
        for (int64_t lane = 0; lane < kLanes; ++lane)
            rows[lane] = mean.at<const float>(k + lane < last ? k + lane : last - 1);
        for (int64_t i = 0; i < width; i += kQuad) {
            VF quad[kQuad];
            if (i + kQuad <= width)
                load_quad<true>(rows, i, kQuad, quad);
            else
                load_quad<false>(rows, i, static_cast<size_t>(width - i), quad);
            for (int64_t j = 0; j < kQuad && i + j < width; ++j) store_n(quad[j], d, to + (i + j) * stride + k, n);
        }
    }
}

/// d_log_sigma [n] += the last rows of the sums.
void add_rows(const TableSums& s, float* to, int64_t first, int64_t n) {
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR {
        VF sum = load(to);
        for (int64_t i = 0; i < s.count; ++i) sum = hn::Add(sum, load(s.part(i) + s.d * s.stride + first));
        store(sum, to);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(invert_sigmas);
HWY_EXPORT(transpose_rows);
HWY_EXPORT(add_rows);

namespace {

/// Components per task: 256 rows of d = 16 are 16 KB.
constexpr int64_t kTaskComponents = 256;

template <class F>
void parallel_components(const Stream& stream, int64_t K, const F& f) {
    parallel_for(stream, ceil_div(K, kTaskComponents), [&](int64_t i, int) {
        const int64_t first = i * kTaskComponents;
        f(first, std::min(K, first + kTaskComponents));
    });
}

}  // namespace

ComponentTable component_table(const View& mean, const View& log_sigma, const Stream& stream, Workspace& workspace) {
    const int64_t K = mean.shape[0], d = mean.shape[1], stride = ComponentTable::stride_of(K);
    float *rows = workspace.take<float>((d + 3) * stride), *means = rows + 3 * stride;
    ComponentTable table{rows, rows + stride, rows + 2 * stride, means, K, d, stride, 0};
    parallel_components(stream, K, [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(invert_sigmas)(log_sigma.as<float>() + first, rows + first, stride, last - first);
        HWY_DYNAMIC_DISPATCH(transpose_rows)(mean, first, last, means, stride);
    });
    for (int64_t k = K; k < table.padded(); ++k) {
        rows[k] = rows[stride + k] = 0;
        rows[2 * stride + k] = -std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < d; ++i) means[i * stride + k] = 0;
    }
    table.peak = *std::max_element(table.neg_log_sigma, table.neg_log_sigma + K);
    return table;
}

TableSums table_sums(int64_t count, int64_t K, int64_t d, Workspace& workspace) {
    const int64_t stride = ComponentTable::stride_of(K);
    return {workspace.take<float>(count * (d + 1) * stride), count, K, d, stride};
}

void add_table_sums(const TableSums& s, const View& d_mean, const View& d_log_sigma, const Stream& stream) {
    parallel_components(stream, s.K, [&](int64_t first, int64_t last) {
        if (d_log_sigma) HWY_DYNAMIC_DISPATCH(add_rows)(s, d_log_sigma.as<float>() + first, first, last - first);
        for (int64_t i = 0; d_mean && i < s.d; ++i)
            for (int64_t k = first; k < last; ++k) {
                float sum = d_mean.at<float>(k)[i];
                for (int64_t part = 0; part < s.count; ++part) sum += s.part(part)[i * s.stride + k];
                d_mean.at<float>(k)[i] = sum;
            }
    });
}

}  // namespace noema::cpu
#endif
