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

void finish_block_simd(const Matmul& p, const BlockResult& block) {
    const int64_t n = block.column;
    const float* bias = p.bias ? p.bias.as<float>() + n : nullptr;
    for (int64_t r = 0; r < block.rows; ++r) {
        const int64_t m = block.row + r;
        const float* sums = block.sums + r * block.pitch;
        const float* gate = p.gate ? p.gate.at<float>(m) + n : nullptr;
        const float* residual = p.residual ? p.residual.at<float>(m) + n : nullptr;
        float* c = p.c.at<float>(m) + n;
        for_each_vector(block.columns, [&](auto load, auto store, int64_t) HWY_ATTR {
            VF y = load(sums);
            if (bias) y = hn::Add(y, load(bias));
            y = activated(y, p.activation);
            if (gate) y = hn::Mul(silu(load(gate)), y);
            if (residual) y = hn::Add(y, load(residual));
            if (p.accumulate) y = hn::Add(y, load(c));
            store(y, c);
        });
    }
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
