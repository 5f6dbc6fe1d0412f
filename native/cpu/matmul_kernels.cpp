// Which block kernel multiplies.
#include <atomic>

#include "cpu/cpu.h"
#include "cpu/matmul_block.h"

namespace noema::cpu {

namespace {

std::atomic<bool> emulated_tiles{false};

}  // namespace

void emulate_tiles(bool on) {
    emulated_tiles.store(on, std::memory_order_relaxed);
}

BlockKernel block_kernel(Precision precision) {
    if (precision == Precision::f32) return {Packing::f32, Packing::f32, multiply_f32};
    if (emulated_tiles.load(std::memory_order_relaxed))
        return {Packing::bf16_pairs, Packing::bf16_pairs, multiply_emulated_tiles};
#if defined(__x86_64__)
    if (current_isa() == Isa::amx) return {Packing::bf16_pairs, Packing::bf16_pairs, multiply_tiles};
    if (current_isa() == Isa::avx512_bf16) return {Packing::bf16_pairs, Packing::bf16_pairs, multiply_bf16};
#endif
    return {Packing::f32_of_bf16, Packing::bf16_pairs, multiply_widened};
}

}  // namespace noema::cpu
