// How a product is cut into blocks.
//
// C is cut into tiles of 96 rows x 256 columns, the tasks of one parallel_for. A tile runs through K by blocks of 256
// steps: 96 packed rows (104 KB), 256 columns of B (256 KB) and the tile's sums (98 KB) share the second-level cache.
// Rows of A, and B unless matmul_pack arranged it before, are packed by a parallel_for of their own for one slab of K of
// at most four blocks, within a chunk of C of 1152 x 1024: 4.9 (9.5 where bf16 rows are widened) and 4.2 MB of workspace
// whatever the shapes are. When K
// needs several slabs, sums wait in the workspace between them.
//
// With at most 96 rows there is one row of tiles. Then nothing is packed twice: rows are packed for the whole of K,
// columns inside the task that needs them, and tiles are narrow (128 columns), so that single rows find work for every
// thread.
#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/matmul_block.h"
#include "cpu/reading.h"

namespace noema::cpu {

namespace {

constexpr int64_t kTileRows = 96, kTilePanels = 16, kNarrowPanels = 8;
constexpr int64_t kBlockBytes = kBlockSteps * kStepBytes;  // of a panel
constexpr int64_t kChunkRows = 12 * kTileRows, kChunkPanels = 4 * kTilePanels, kSlabBlocks = 4;

// Products of fewer multiply-adds than this (about 4 us) are not worth waking other threads.
constexpr int64_t kSerialWork = 1 << 16;

struct Plan {
    BlockKernel kernel;
    Factor a, b;
    const std::byte* packed_b;
    int64_t steps, blocks;  // of the whole of K
    int64_t tile_panels;
    int64_t chunk_rows, chunk_panels, slab_blocks;
    bool pack_in_task;  // B, by the task that uses it
    bool from_memory;   // packed columns that few rows go through once, and no cache has

    int64_t panels() const { return divide_up(b.lines, kPanelColumns); }
    int64_t panel_bytes() const { return steps * kStepBytes; }
    bool single_slab() const { return slab_blocks >= blocks; }
    bool pack_slab() const { return !packed_b && !pack_in_task; }
};

Plan make_plan(const Matmul& p) {
    Plan plan{};
    const int64_t M = p.c.shape[0], N = p.c.shape[1], K = p.a.shape[p.transpose_a ? 0 : 1];
    plan.kernel = block_kernel(p.precision);
    plan.a = {p.a.data, p.a.dtype, p.a.stride[0], !p.transpose_a, M, K};
    plan.b = {p.b.data, p.b.dtype, p.b.stride[0], p.transpose_b, N, K};
    plan.packed_b = static_cast<const std::byte*>(p.packed_b);
    plan.steps = panel_steps(K, plan.kernel.panels);
    plan.blocks = divide_up(plan.steps, kBlockSteps);
    const bool few_rows = M <= kTileRows;
    plan.pack_in_task = few_rows && !p.packed_b;
    plan.tile_panels = few_rows ? kNarrowPanels : kTilePanels;
    plan.from_memory = few_rows && p.packed_b && beyond_caches(plan.panels() * plan.panel_bytes());
    // Chunks of equal height: 1200 rows are 600 + 600, not 1152 + 48.
    const int64_t tall = divide_up(divide_up(M, divide_up(M, kChunkRows)), kTileRows) * kTileRows;
    plan.chunk_rows = few_rows ? M : tall;
    plan.slab_blocks = few_rows ? plan.blocks : std::min(plan.blocks, kSlabBlocks);
    // Only packed columns and waiting sums take room.
    const bool all_columns = few_rows || (p.packed_b && plan.single_slab());
    plan.chunk_panels = all_columns ? plan.panels() : std::min(plan.panels(), kChunkPanels);
    return plan;
}

struct Buffers {
    std::byte* a;
    std::byte* b;
    float* sums;
};

// Byte counts of a, b and sums, in the order in which they are taken.
struct Sizes {
    int64_t a, b, sums;
};

int64_t tiles_of_chunk(const Plan& plan) {
    return divide_up(plan.chunk_rows, kTileRows) * divide_up(plan.chunk_panels, plan.tile_panels);
}

int64_t tile_sums(const Plan& plan) {
    return std::min(plan.chunk_rows, kTileRows) * plan.tile_panels * kPanelColumns;
}

Sizes sizes_of(const Plan& plan, const Stream& stream) {
    Sizes s{};
    s.a = plan.slab_blocks * plan.chunk_rows * row_pitch(plan.kernel.rows);
    if (plan.pack_in_task) s.b = stream.threads * plan.tile_panels * kBlockBytes;
    if (plan.pack_slab()) s.b = plan.chunk_panels * (plan.slab_blocks * kBlockBytes + kStepBytes);
    s.sums = (plan.single_slab() ? stream.threads : tiles_of_chunk(plan)) * tile_sums(plan);
    return s;
}

size_t workspace(const Matmul& p, const Stream& stream) {
    if (p.c.size() == 0) return 0;
    const Sizes s = sizes_of(make_plan(p), stream);
    return workspace_bytes<std::byte>(s.a) + workspace_bytes<std::byte>(s.b) + workspace_bytes<float>(s.sums);
}

// One slab of K within one chunk of C.
struct Slab {
    int64_t row, rows;
    int64_t panel, panels;
    int64_t block, blocks;
};

class Product {
 public:
    Product(const Matmul& p, const Stream& stream, Workspace workspace) : p_(p), stream_(stream), plan_(make_plan(p)) {
        const Sizes s = sizes_of(plan_, stream);
        buffers_.a = workspace.take<std::byte>(s.a);
        buffers_.b = workspace.take<std::byte>(s.b);
        buffers_.sums = workspace.take<float>(s.sums);
        if (plan_.a.lines * plan_.b.lines * plan_.a.K < kSerialWork) stream_.threads = 1;
    }

    void run() {
        for (int64_t n = 0; n < plan_.panels(); n += plan_.chunk_panels)
            for (int64_t m = 0; m < plan_.a.lines; m += plan_.chunk_rows)
                // A sum of no terms still has an epilogue.
                for (int64_t k = 0; k < std::max<int64_t>(plan_.blocks, 1); k += plan_.slab_blocks) {
                    const Slab slab{m, std::min(plan_.chunk_rows, plan_.a.lines - m),
                                    n, std::min(plan_.chunk_panels, plan_.panels() - n),
                                    k, std::min(plan_.slab_blocks, plan_.blocks - k)};
                    pack(slab);
                    multiply(slab);
                    if (plan_.blocks == 0) break;
                }
    }

 private:
    int64_t steps_of(int64_t block) const { return std::min(kBlockSteps, plan_.steps - block * kBlockSteps); }

    std::byte* rows_at(const Slab& slab, int64_t block, int64_t row) const {
        return buffers_.a + (block * slab.rows + row) * row_pitch(plan_.kernel.rows);
    }

    void pack(const Slab& slab) {
        // Rows that lie across memory are packed many at a time, which reads it in longer pieces.
        const int64_t rows = plan_.a.depth_is_last ? 32 : kTileRows, panels = 8;
        const int64_t row_groups = divide_up(slab.rows, rows), row_tasks = row_groups * slab.blocks;
        const int64_t panel_groups = plan_.pack_slab() ? divide_up(slab.panels, panels) : 0;
        parallel_for(few_values(slab) ? Stream{} : stream_, row_tasks + panel_groups * slab.blocks,
                     [&](int64_t i, int) {
                         if (i < row_tasks) return pack_a(slab, i % row_groups * rows, rows, i / row_groups);
                         const int64_t group = (i - row_tasks) % panel_groups, block = (i - row_tasks) / panel_groups;
                         pack_b(slab.panel + group * panels, std::min(panels, slab.panels - group * panels),
                                slab.block + block, slab_columns(slab, group * panels, block), slab_pitch(slab));
                     });
    }

    void pack_a(const Slab& slab, int64_t row, int64_t rows, int64_t block) {
        const int64_t in_k = slab.block + block;
        pack_rows(plan_.a, plan_.kernel.rows,
                  {slab.row + row, std::min(rows, slab.rows - row), in_k * kBlockSteps, steps_of(in_k)},
                  rows_at(slab, block, row));
    }

    // One line more than the slab needs, so that the panels' lines do not meet in one set of the caches.
    static int64_t slab_pitch(const Slab& slab) { return slab.blocks * kBlockBytes + kStepBytes; }
    std::byte* slab_columns(const Slab& slab, int64_t panel, int64_t block) const {
        return buffers_.b + panel * slab_pitch(slab) + block * kBlockBytes;
    }

    // Converting a few rows takes less time than handing them out.
    bool few_values(const Slab& slab) const { return slab.rows * plan_.a.K < kSerialWork / 4 && !plan_.pack_slab(); }

    // One block of some panels.
    void pack_b(int64_t panel, int64_t panels, int64_t block, std::byte* out, int64_t panel_bytes) {
        const int64_t line = panel * kPanelColumns;
        pack_panels(
            plan_.b, plan_.kernel.panels,
            {line, std::min(panels * kPanelColumns, plan_.b.lines - line), block * kBlockSteps, steps_of(block)}, out,
            panel_bytes);
    }

    void multiply(const Slab& slab) {
        const int64_t down = divide_up(slab.rows, kTileRows), across = divide_up(slab.panels, plan_.tile_panels);
        parallel_for(stream_, down * across, [&](int64_t i, int worker) {
            // Neighbours in time share columns, the larger of the two operands of a tile.
            const int64_t row = i % down * kTileRows, panel = i / down * plan_.tile_panels;
            float* sums = buffers_.sums + (plan_.single_slab() ? worker : i) * tile_sums(plan_);
            tile(slab,
                 {sums, plan_.tile_panels * kPanelColumns, row, std::min(kTileRows, slab.rows - row), panel,
                  std::min(plan_.tile_panels, slab.panels - panel)},
                 worker);
        });
    }

    struct Tile {
        float* sums;
        int64_t pitch;
        int64_t row, rows;      // within the slab
        int64_t panel, panels;  // within the slab
    };

    void tile(const Slab& slab, const Tile& t, int worker) {
        for (int64_t k = 0; k < std::max<int64_t>(slab.blocks, 1); ++k) {
            const Columns columns = columns_at(slab, t, k, worker);
            plan_.kernel.multiply(
                {.a = rows_at(slab, k, t.row),
                 .b = columns.data,
                 .panel_bytes = columns.panel_bytes,
                 .sums = t.sums,
                 .pitch = t.pitch,
                 .rows = t.rows,
                 .panels = t.panels,
                 .steps = std::max<int64_t>(steps_of(slab.block + k), 0),
                 .first = slab.block + k == 0,
                 .next = plan_.from_memory && k + 1 < slab.blocks ? columns.data + kBlockBytes : nullptr,
                 .from_memory = plan_.from_memory});
        }
        if (slab.block + slab.blocks < plan_.blocks) return;
        const int64_t column = (slab.panel + t.panel) * kPanelColumns;
        finish_block(p_, {t.sums, t.pitch, slab.row + t.row, t.rows, column,
                          std::min(t.panels * kPanelColumns, plan_.b.lines - column)});
    }

    struct Columns {
        const std::byte* data;
        int64_t panel_bytes;
    };

    Columns columns_at(const Slab& slab, const Tile& t, int64_t block, int worker) {
        if (plan_.packed_b)
            return {plan_.packed_b + (slab.panel + t.panel) * plan_.panel_bytes() +
                        (slab.block + block) * kBlockSteps * kStepBytes,
                    plan_.panel_bytes()};
        if (!plan_.pack_in_task) return {slab_columns(slab, t.panel, block), slab_pitch(slab)};
        std::byte* own = buffers_.b + worker * plan_.tile_panels * kBlockBytes;
        if (slab.blocks > 0) pack_b(slab.panel + t.panel, t.panels, slab.block + block, own, kBlockBytes);
        return {own, kBlockBytes};
    }

    const Matmul& p_;
    Stream stream_;
    Plan plan_;
    Buffers buffers_;
};

Status run(const Matmul& p, const Stream& stream, Workspace workspace) {
    if (p.c.size() > 0) Product(p, stream, workspace).run();
    return {};
}

}  // namespace

Op<Matmul> matmul_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
