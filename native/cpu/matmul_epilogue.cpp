#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/matmul_epilogue.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/activations-inl.h"
#include "cpu/cpu.h"
#include "cpu/matmul_block.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

HWY_INLINE VF activated(VF y, Activation activation) {
    switch (activation) {
        case Activation::gelu_erf: return gelu_erf(y);
        case Activation::gelu_tanh: return gelu_tanh(y);
        case Activation::none: break;
    }
    return y;
}

/// c = finish(sum, the sum's row, load, its place in the row) for all of a block.
template <class Finish>
HWY_INLINE void each_sum(const Matmul& p, const BlockResult& block, const Finish& finish) {
    for (int64_t r = 0; r < block.rows; ++r) {
        const int64_t m = block.row + r;
        const float* sums = block.sums + r * block.pitch;
        float* c = p.c.at<float>(m) + block.column;
        for_each_vector(block.columns,
                        [&](auto load, auto store, int64_t) HWY_ATTR { store(finish(load(sums), m, load), c); });
    }
}

HWY_INLINE const float* row_at(const View& v, int64_t m, const BlockResult& block) {
    return v.at<float>(m) + block.column;
}

/// Whatever the epilogue has.
void finish_any(const Matmul& p, const BlockResult& block) {
    const float* bias = p.bias ? p.bias.as<float>() + block.column : nullptr;
    each_sum(p, block, [&](VF y, int64_t m, auto load) HWY_ATTR {
        if (bias) y = hn::Add(y, load(bias));
        y = activated(y, p.activation);
        if (p.gate) y = hn::Mul(silu(load(row_at(p.gate, m, block))), y);
        if (p.residual) y = hn::Add(y, load(row_at(p.residual, m, block)));
        if (p.accumulate) y = hn::Add(y, load(row_at(p.c, m, block)));
        return y;
    });
}

/// A product of few rows is short, and most have nothing or one thing to add: those ask no questions at every vector.
void finish_block_simd(const Matmul& p, const BlockResult& block) {
    const bool other = p.bias || p.activation != Activation::none || p.accumulate;
    if (other || (p.gate && p.residual)) return finish_any(p, block);
    if (p.gate)
        return each_sum(p, block, [&](VF y, int64_t m, auto load) HWY_ATTR {
            return hn::Mul(silu(load(row_at(p.gate, m, block))), y);
        });
    if (p.residual)
        return each_sum(p, block, [&](VF y, int64_t m, auto load) HWY_ATTR {
            return hn::Add(y, load(row_at(p.residual, m, block)));
        });
    each_sum(p, block, [](VF y, int64_t, auto) HWY_ATTR { return y; });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {
HWY_EXPORT(finish_block_simd);
}

void finish_block(const Matmul& p, const BlockResult& block) {
    HWY_DYNAMIC_DISPATCH(finish_block_simd)(p, block);
}

}  // namespace noema::cpu
#endif
