// The block kernel over 16 x 64-byte tiles, written once for the processor's tiles (AMX) and for an emulation of them.
//
// `Tiles` offers what the instructions offer: configure(rows of each tile), zero<t>, load<t>(from, pitch), store<t>,
// dot<sum, a, b>, release. Tile t of a: up to 16 rows x 16 pairs of bf16; of b: 16 steps x 16 columns; of a sum: up to 16
// rows x 16 columns of f32.
//
// Each of the eight tiles has one use. Two rows of tiles x two panels: sums 0-3, rows 4-5, columns 6-7: four products
// for four loads. Up to 16 rows: one row of tiles x four panels: sums 0-3, rows 4, columns 5-7 and then 5 again.
#pragma once

#include <algorithm>

#include "cpu/matmul_block.h"

namespace noema::cpu {

constexpr int64_t kTileLines = 16, kTileSteps = 16;

template <class Tiles>
struct TileKernel {
    Tiles tiles;
    const BlockProduct& p;
    int64_t configured = -1;
    int64_t beyond = 0;  // from a panel to the one that is read after it

    static constexpr int64_t kPitch = row_pitch(Packing::bf16_pairs);

    // Rows of the upper and of the lower row of tiles. Loading a configuration takes some hundred cycles and clears all
    // tiles, so it is done only when the number of rows changes.
    void configure(int64_t upper, int64_t lower) {
        if (configured == upper * 32 + lower) return;
        configured = upper * 32 + lower;
        if (lower > 0) {
            const uint8_t rows[8] = {u8(upper), u8(upper), u8(lower), u8(lower), u8(upper), u8(lower), 16, 16};
            tiles.configure(rows);
        } else {
            const uint8_t rows[8] = {u8(upper), u8(upper), u8(upper), u8(upper), u8(upper), 16, 16, 16};
            tiles.configure(rows);
        }
    }
    static uint8_t u8(int64_t n) { return static_cast<uint8_t>(n); }

    float* sums_at(int64_t row, int64_t panel) const { return p.sums + row * p.pitch + panel * kPanelColumns; }
    const std::byte* columns_at(int64_t panel, int64_t step) const {
        return p.b + panel * p.panel_bytes + step * kStepBytes;
    }

    template <int T>
    void start(int64_t row, int64_t panel) {
        if (p.first)
            tiles.template zero<T>();
        else
            tiles.template load<T>(sums_at(row, panel), p.pitch * 4);
    }
    template <int T>
    void finish(int64_t row, int64_t panel) {
        tiles.template store<T>(sums_at(row, panel), p.pitch * 4);
    }
    template <int T>
    void columns(int64_t panel, int64_t step) {
        tiles.template load<T>(columns_at(panel, step), kStepBytes);
    }
    template <int T>
    void rows(int64_t row, int64_t step) {
        tiles.template load<T>(p.a + row * kPitch + step * 4, kPitch);
    }

    // 17 to 32 rows x P panels (1 or 2).
    template <int P>
    void tall(int64_t row, int64_t panel) {
        start<0>(row, panel), start<2>(row + kTileLines, panel);
        if constexpr (P > 1) start<1>(row, panel + 1), start<3>(row + kTileLines, panel + 1);
        for (int64_t s = 0; s < p.steps; s += kTileSteps) {
            columns<6>(panel, s);
            rows<4>(row, s);
            tiles.template dot<0, 4, 6>();
            if constexpr (P > 1) {
                columns<7>(panel + 1, s);
                tiles.template dot<1, 4, 7>();
            }
            rows<5>(row + kTileLines, s);
            tiles.template dot<2, 5, 6>();
            if constexpr (P > 1) tiles.template dot<3, 5, 7>();
        }
        finish<0>(row, panel), finish<2>(row + kTileLines, panel);
        if constexpr (P > 1) finish<1>(row, panel + 1), finish<3>(row + kTileLines, panel + 1);
    }

    // Few rows stream the panels once: lines are fetched two tiles ahead of their use, at a panel's end those of the panel that is
    // read after it (which nothing else asks for in time: of 256 columns a panel has no more than eight tiles).
    template <int T>
    void streamed_columns(int64_t panel, int64_t step) {
        const int64_t then = step + 2 * kTileSteps;
        const std::byte* ahead = then < p.steps ? columns_at(panel, then) : columns_at(panel, then - p.steps) + beyond;
        for (int64_t line = 0; line < kTileSteps; ++line) __builtin_prefetch(ahead + line * kStepBytes);
        columns<T>(panel, step);
    }

    // 1 to 16 rows x P panels (1, 2 or 4).
    template <int P>
    void flat(int64_t row, int64_t panel) {
        start<0>(row, panel);
        if constexpr (P > 1) start<1>(row, panel + 1);
        if constexpr (P > 2) start<2>(row, panel + 2), start<3>(row, panel + 3);
        for (int64_t s = 0; s < p.steps; s += kTileSteps) {
            rows<4>(row, s);
            streamed_columns<5>(panel, s);
            tiles.template dot<0, 4, 5>();
            if constexpr (P > 1) {
                streamed_columns<6>(panel + 1, s);
                tiles.template dot<1, 4, 6>();
            }
            if constexpr (P > 2) {
                streamed_columns<7>(panel + 2, s);
                tiles.template dot<2, 4, 7>();
                streamed_columns<5>(panel + 3, s);
                tiles.template dot<3, 4, 5>();
            }
        }
        finish<0>(row, panel);
        if constexpr (P > 1) finish<1>(row, panel + 1);
        if constexpr (P > 2) finish<2>(row, panel + 2), finish<3>(row, panel + 3);
    }

    void rows_block(int64_t row, int64_t count, int64_t panel, int64_t panels) {
        configure(std::min(count, kTileLines), std::max<int64_t>(count - kTileLines, 0));
        if (count > kTileLines)
            panels == 2 ? tall<2>(row, panel) : tall<1>(row, panel);
        else
            panels == 4 ? flat<4>(row, panel) : panels == 2 ? flat<2>(row, panel) : flat<1>(row, panel);
    }

    // Rows of tiles are the outer loop: the last of them may have a configuration of its own.
    void run() {
        for (int64_t m = 0; m < p.rows; m += 2 * kTileLines) {
            const int64_t count = std::min(p.rows - m, 2 * kTileLines), most = count > kTileLines ? 2 : 4;
            for (int64_t n = 0; n < p.panels;) {
                int64_t panels = most;
                while (panels > p.panels - n) panels /= 2;
                beyond = fetch_distance(p, n, panels);
                rows_block(m, count, n, panels);
                n += panels;
            }
        }
        tiles.release();
    }
};

}  // namespace noema::cpu
