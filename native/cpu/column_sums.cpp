#include "cpu/column_sums.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/column_sums.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void sum_block(const ColumnSums& s, int64_t group, int64_t first, int64_t columns) {
    const float* parts = s.parts + group * s.n * s.C + first;
    float* to = s.to + group * s.stride + first;
    for_each_vector(columns, [&](auto load, auto store, int64_t) HWY_ATTR {
        VF sum = s.accumulate ? load(to) : hn::Zero(DF());
        for (int64_t i = 0; i < s.n; ++i) sum = hn::Add(sum, load(parts + i * s.C));
        store(sum, to);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(sum_block);

void column_sums(const ColumnSums& s, const Stream& stream) {
    constexpr int64_t kColumns = 256;
    const int64_t blocks = ceil_div(s.C, kColumns);
    parallel_for(stream, s.groups * blocks, [&](int64_t i, int) {
        const int64_t first = i % blocks * kColumns;
        HWY_DYNAMIC_DISPATCH(sum_block)(s, i / blocks, first, std::min(kColumns, s.C - first));
    });
}

}  // namespace noema::cpu
#endif
