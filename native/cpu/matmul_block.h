// The inner part of every product on the CPU: a block of packed rows times some packed panels, summed over one block of
// steps. For one instruction set and precision every element is one chain of additions in the order of k, whatever the
// block's size and wherever it was cut; so a row's result depends neither on the other rows nor on the threads.
#pragma once

#include "cpu/matmul_packing.h"

namespace noema::cpu {

struct BlockProduct {
    const std::byte* a;   // `rows` packed rows of one block, row_pitch apart
    const std::byte* b;   // first panel, at the block's first step
    int64_t panel_bytes;  // from a panel to the next
    float* sums;          // [rows, pitch]: 16 columns per panel
    int64_t pitch;
    int64_t rows;
    int64_t panels;
    int64_t steps;  // at most kBlockSteps
    bool first;     // sums are assigned, else continued
    // Where panels come from far and are read once: what is read after these. While some are multiplied, those that follow are
    // fetched. (Costs 5 % where they are near.)
    const std::byte* next = nullptr;
    bool from_memory = false;  // not even the last cache has them
};

/// From the group of panels that starts with panel n to what is read after it, if that is to be fetched; else 0.
inline int64_t fetch_distance(const BlockProduct& p, int64_t n, int64_t group) {
    if (!p.next) return 0;
    return n + group < p.panels ? group * p.panel_bytes : p.next - (p.b + n * p.panel_bytes);
}

/// The kernel for a precision on the instruction set in force, and how it wants its rows.
struct BlockKernel {
    Packing rows;
    Packing panels;
    void (*multiply)(const BlockProduct&);
};
BlockKernel block_kernel(Precision precision);

/// y[m,n] of the header's epilogue for rows [row, row + rows) and columns [column, column + columns) from their sums.
struct BlockResult {
    const float* sums;
    int64_t pitch;
    int64_t row;
    int64_t rows;
    int64_t column;
    int64_t columns;
};
void finish_block(const Matmul& p, const BlockResult& block);

// What block_kernel chooses from.
void multiply_f32(const BlockProduct& p);
void multiply_widened(const BlockProduct& p);
void multiply_bf16(const BlockProduct& p);            // vdpbf16ps
void multiply_tiles(const BlockProduct& p);           // AMX
void multiply_emulated_tiles(const BlockProduct& p);  // AMX in plain loops

/// Sends bf16 products through the emulated tiles, whatever the machine has. For tests.
void emulate_tiles(bool on);

}  // namespace noema::cpu
