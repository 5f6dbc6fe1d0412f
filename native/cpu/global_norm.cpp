#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/global_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

using DD = hn::ScalableTag<double>;
using VD = hn::Vec<DD>;

HWY_INLINE VD add_square(const float* x, VD sum) {
    const VD v = hn::PromoteTo(DD(), hn::LoadU(hn::Rebind<float, DD>(), x));
    return hn::MulAdd(v, v, sum);
}

// The square of an f32 is exact in double. Four sums: one chain of additions would wait 4 cycles for each vector.
double sum_squares(const float* x, int64_t n) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DD()));
    VD a = hn::Zero(DD()), b = a, c = a, d = a;
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        a = add_square(x + i, a);
        b = add_square(x + i + L, b);
        c = add_square(x + i + 2 * L, c);
        d = add_square(x + i + 3 * L, d);
    }
    double sum = hn::GetLane(hn::SumOfLanes(DD(), hn::Add(hn::Add(a, b), hn::Add(c, d))));
    for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
    return sum;
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(sum_squares);

namespace {

size_t workspace(const GlobalNorm& p, const Stream&) {
    return workspace_bytes<double>(ceil_div(p.x.shape[0], kTaskElements));
}

Status run(const GlobalNorm& p, const Stream& stream, Workspace w) {
    const int64_t n = p.x.shape[0], chunks = ceil_div(n, kTaskElements);
    double* parts = w.take<double>(chunks);
    parallel_for(stream, chunks, [&](int64_t i, int) {
        const int64_t first = i * kTaskElements;
        parts[i] = HWY_DYNAMIC_DISPATCH(sum_squares)(p.x.as<float>() + first, std::min(kTaskElements, n - first));
    });
    double sum = 0;
    for (int64_t i = 0; i < chunks; ++i) sum += parts[i];
    p.norm.as<float>()[0] = static_cast<float>(p.scale * std::sqrt(sum));
    return {};
}

}  // namespace

Op<GlobalNorm> global_norm_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
