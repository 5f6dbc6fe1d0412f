// A block's tile of a product: C[rows, columns] += A[rows, K] B[columns, K]^T, the sums in registers.
//
//   Product c(shared byte offset);  c.clear();  c.run({a, row, b, column}, 0, K);
//   now c.at(i, j) is the element of tile row c.row(i), tile column c.column(j), for i < kRows and j < kColumns
//
// row() depends on i alone and column() on j alone; columns j and j + 1 lie side by side for even j. A row of the tile lies in
// kRowLanes neighbouring lanes (an aligned group, so warp_reduce(x, op, kRowLanes) runs over the row's part in a warp) of kRowWarps
// warps, whose parts are numbered by row_part().
//
// The order of sums is the same for every tile shape: TensorProduct adds up K in steps of 16 factors from `begin` on (mma.sync; whatever
// happens within a step, it happens to each element alone), FmaProduct factor by factor with fmaf. Both pad the last step with zeros.
#pragma once

#include "common/operand.h"

namespace noema::cuda {

struct Nothing {
    __device__ __forceinline__ void operator()() const {}
};

/// The operands, and where the tile lies.
struct Factors {
    const Operand& a;
    int row;
    const Operand& b;
    int column;
};

/// Shape of a block: the tile, factors per slab, warps down and across, slabs in shared memory.
template <int kM_, int kN_, int kDepth_, int kWarpsM_, int kWarpsN_, int kStages_>
struct TensorTile {
    static constexpr int kM = kM_, kN = kN_, kDepth = kDepth_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_,
                         kStages = kStages_;
    static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
    static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;  // a warp's part
    static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0 && kDepth % 16 == 0 && kStages >= 2);
};

/// bf16 factors on tensor cores.
template <class Tile, Source kA, Source kB>
class TensorProduct {
    using LoadA = SlabLoader<Tile::kM, Tile::kDepth, kA, Tile::kThreads>;
    using LoadB = SlabLoader<Tile::kN, Tile::kDepth, kB, Tile::kThreads>;
    static constexpr int kTilesM = Tile::kWarpM / 16, kTilesN = Tile::kWarpN / 8, kStages = Tile::kStages;
    static constexpr bool kAsync = is_async(kA) || is_async(kB);

 public:
    static constexpr int kM = Tile::kM, kN = Tile::kN, kThreads = Tile::kThreads;
    static constexpr int kRows = 2 * kTilesM, kColumns = 2 * kTilesN;  // elements of a thread
    static constexpr int kRowLanes = 4, kRowWarps = Tile::kWarpsN;
    static constexpr int kSharedBytes = kStages * (LoadA::kElements + LoadB::kElements) * 2;

    /// The block's dynamic shared memory from byte `offset` (a multiple of 16) on, kSharedBytes of it.
    __device__ __forceinline__ explicit TensorProduct(int offset = 0)
        : a_(dynamic_shared<bf16>(offset, kStages * LoadA::kElements)),
          b_(dynamic_shared<bf16>(offset + kStages * LoadA::kElements * 2, kStages * LoadB::kElements)) {}

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) at(i, j) = 0;
    }
    __device__ __forceinline__ float& at(int i, int j) {
        return sums_[i / 2][j / 2][2 * (i % 2) + j % 2];
    }
    __device__ __forceinline__ static int row(int i) {
        return warp() / Tile::kWarpsN * Tile::kWarpM + i / 2 * 16 + i % 2 * 8 + lane() / 4;
    }
    __device__ __forceinline__ static int column(int j) {
        return row_part() * Tile::kWarpN + j / 2 * 8 + lane() % 4 * 2 + j % 2;
    }
    __device__ __forceinline__ static int row_part() {
        return warp() % Tile::kWarpsN;
    }

    /// Adds the factors [begin, end). All threads of the block; a barrier stands at the end. between(): called after every `chunk`
    /// factors (a multiple of Tile::kDepth) but the last ones, while the next are on their way.
    template <class Between = Nothing>
    __device__ __forceinline__ void run(const Factors& f, int begin, int end, int chunk = 1 << 30,
                                        const Between& between = {}) {
        LoadA a(f.a, f.row, begin, end);
        LoadB b(f.b, f.column, begin, end);
        const int slabs = (end - begin + Tile::kDepth - 1) / Tile::kDepth;
        if (slabs <= 0) return;
#pragma unroll
        for (int s = 0; s < kStages - 1; ++s) {
            if (s < slabs) copy(a, b, begin + s * Tile::kDepth, s);
            if constexpr (kAsync) copy_async_commit();
        }
        fetch(a, b, begin);
        store(a, b, 0);
        for (int s = 0, stage = 0, left = chunk; s < slabs; ++s) {
            if constexpr (kAsync) copy_async_wait<kStages - 2>();
            __syncthreads();  // slab s is there, and nobody reads slab s - 1 any more
            const int next = stage + 1 == kStages ? 0 : stage + 1, last = stage == 0 ? kStages - 1 : stage - 1;
            if (s + kStages - 1 < slabs) copy(a, b, begin + (s + kStages - 1) * Tile::kDepth, last);
            if constexpr (kAsync) copy_async_commit();
            if (s + 1 < slabs) fetch(a, b, begin + (s + 1) * Tile::kDepth);
            multiply(stage);
            if (s + 1 < slabs) store(a, b, next);
            stage = next;
            left -= Tile::kDepth;
            if (left == 0 && s + 1 < slabs) {
                between();
                left = chunk;
            }
        }
        __syncthreads();
    }

 private:
    __device__ __forceinline__ static int lane() {
        return static_cast<int>(threadIdx.x) % 32;
    }
    __device__ __forceinline__ static int warp() {
        return static_cast<int>(threadIdx.x) / 32;
    }
    __device__ __forceinline__ Shared<bf16> stage_a(int stage) const {
        return a_ + stage * LoadA::kElements;
    }
    __device__ __forceinline__ Shared<bf16> stage_b(int stage) const {
        return b_ + stage * LoadB::kElements;
    }

    __device__ __forceinline__ void copy(const LoadA& a, const LoadB& b, int k, int stage) const {
        if constexpr (is_async(kA)) a.copy(k, stage_a(stage));
        if constexpr (is_async(kB)) b.copy(k, stage_b(stage));
    }
    __device__ __forceinline__ static void fetch(LoadA& a, LoadB& b, int k) {
        if constexpr (!is_async(kA)) a.fetch(k);
        if constexpr (!is_async(kB)) b.fetch(k);
    }
    __device__ __forceinline__ void store(const LoadA& a, const LoadB& b, int stage) const {
        if constexpr (!is_async(kA)) a.store(stage_a(stage));
        if constexpr (!is_async(kB)) b.store(stage_b(stage));
    }

    // 16 lines x 16 factors at (m, k) as the first factor of mma.
    __device__ __forceinline__ static void load_a(uint32_t (&r)[4], Shared<bf16> tile, int m, int k) {
        const int l = lane();
        if constexpr (LoadA::kAlongDepth) {
            load_matrices_x4(r, tile + ((m + l % 16) * LoadA::kPitch + k + l / 16 * 8));
        } else {
            load_matrices_x4_transposed(r, tile + ((k + l % 8 + l / 16 * 8) * LoadA::kPitch + m + l / 8 % 2 * 8));
        }
    }
    // 16 lines x 16 factors at (n, k) as the second factor of two mma: lines n.. are r[0], r[1], lines n + 8.. r[2], r[3].
    __device__ __forceinline__ static void load_b(uint32_t (&r)[4], Shared<bf16> tile, int n, int k) {
        const int l = lane();
        if constexpr (LoadB::kAlongDepth) {
            load_matrices_x4(r, tile + ((n + l % 8 + l / 16 * 8) * LoadB::kPitch + k + l / 8 % 2 * 8));
        } else {
            load_matrices_x4_transposed(r, tile + ((k + l % 16) * LoadB::kPitch + n + l / 16 * 8));
        }
    }

    __device__ __forceinline__ void multiply(int stage) {
        const Shared<bf16> tile_a = stage_a(stage), tile_b = stage_b(stage);
        const int m = warp() / Tile::kWarpsN * Tile::kWarpM, n = row_part() * Tile::kWarpN;
#pragma unroll
        for (int k = 0; k < Tile::kDepth; k += 16) {
            uint32_t a[kTilesM][4];
#pragma unroll
            for (int i = 0; i < kTilesM; ++i) load_a(a[i], tile_a, m + 16 * i, k);
#pragma unroll
            for (int j = 0; j < kTilesN; j += 2) {
                uint32_t b[4];
                load_b(b, tile_b, n + 8 * j, k);
                const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
                for (int i = 0; i < kTilesM; ++i) {
                    mma_16x8x16(sums_[i][j], a[i], low);
                    mma_16x8x16(sums_[i][j + 1], a[i], high);
                }
            }
        }
    }

    const Shared<bf16> a_, b_;
    float sums_[kTilesM][kTilesN][4];
};

/// Shape of a block of FmaProduct: 16 threads across.
template <int kM_, int kN_, int kDepth_, int kThreads_>
struct FmaTile {
    static constexpr int kM = kM_, kN = kN_, kDepth = kDepth_, kThreads = kThreads_;
    static constexpr int kAcross = 16, kDown = kThreads / kAcross;
    static_assert(kM % (4 * kDown) == 0 && kN % (4 * kAcross) == 0 && kDepth % 8 == 0);
};

/// f32 factors (bf16 ones are widened) on CUDA cores. Sources are staged.
template <class Tile, Source kA, Source kB>
class FmaProduct {
    using LoadA = SlabLoader<Tile::kM, Tile::kDepth, kA, Tile::kThreads>;
    using LoadB = SlabLoader<Tile::kN, Tile::kDepth, kB, Tile::kThreads>;
    static_assert(!is_async(kA) && !is_async(kB));
    static constexpr int kStages = 2;

 public:
    static constexpr int kM = Tile::kM, kN = Tile::kN, kThreads = Tile::kThreads;
    static constexpr int kRows = kM / Tile::kDown, kColumns = kN / Tile::kAcross;  // elements of a thread
    static constexpr int kRowLanes = Tile::kAcross, kRowWarps = 1;
    static constexpr int kSharedBytes = kStages * (LoadA::kElementsF32 + LoadB::kElementsF32) * 4;

    __device__ __forceinline__ explicit FmaProduct(int offset = 0)
        : a_(dynamic_shared<float>(offset, kStages * LoadA::kElementsF32)),
          b_(dynamic_shared<float>(offset + kStages * LoadA::kElementsF32 * 4, kStages * LoadB::kElementsF32)) {}

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) at(i, j) = 0;
    }
    __device__ __forceinline__ float& at(int i, int j) {
        return sums_[i][j];
    }
    __device__ __forceinline__ static int row(int i) {
        return i / 4 * (4 * Tile::kDown) + static_cast<int>(threadIdx.x) / Tile::kAcross * 4 + i % 4;
    }
    __device__ __forceinline__ static int column(int j) {
        return j / 4 * (4 * Tile::kAcross) + static_cast<int>(threadIdx.x) % Tile::kAcross * 4 + j % 4;
    }
    __device__ __forceinline__ static int row_part() {
        return 0;
    }

    /// Adds the factors [begin, end). All threads of the block; a barrier stands at the end. between(): called after every `chunk`
    /// factors (a multiple of Tile::kDepth) but the last ones, while the next are on their way.
    template <class Between = Nothing>
    __device__ __forceinline__ void run(const Factors& f, int begin, int end, int chunk = 1 << 30,
                                        const Between& between = {}) {
        LoadA a(f.a, f.row, begin, end);
        LoadB b(f.b, f.column, begin, end);
        if (begin >= end) return;
        a.fetch(begin);
        b.fetch(begin);
        a.store(a_);
        b.store(b_);
        for (int k = begin, stage = 0, left = chunk; k < end; k += Tile::kDepth, stage ^= 1) {
            __syncthreads();  // this slab is there, and nobody reads the last one any more
            const bool more = k + Tile::kDepth < end;
            if (more) {
                a.fetch(k + Tile::kDepth);
                b.fetch(k + Tile::kDepth);
            }
            multiply(stage);
            if (more) {
                a.store(a_ + (stage ^ 1) * LoadA::kElementsF32);
                b.store(b_ + (stage ^ 1) * LoadB::kElementsF32);
            }
            left -= Tile::kDepth;
            if (left == 0 && more) {
                between();
                left = chunk;
            }
        }
        __syncthreads();
    }

 private:
    template <int kCount>
    __device__ __forceinline__ static void load(float (&x)[kCount], Shared<float> slab_row, int first, int step) {
#pragma unroll
        for (int i = 0; i < kCount; i += 4) {
            const float4 four = slab_row.template as<float4>()[(first + i / 4 * step) / 4];
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    }

    __device__ __forceinline__ void multiply(int stage) {
        const Shared<float> tile_a = a_ + stage * LoadA::kElementsF32, tile_b = b_ + stage * LoadB::kElementsF32;
#pragma unroll 4
        for (int k = 0; k < Tile::kDepth; ++k) {
            float a[kRows], b[kColumns];
            load(a, tile_a + k * LoadA::kPitchF32, row(0), 4 * Tile::kDown);
            load(b, tile_b + k * LoadB::kPitchF32, column(0), 4 * Tile::kAcross);
#pragma unroll
            for (int i = 0; i < kRows; ++i)
#pragma unroll
                for (int j = 0; j < kColumns; ++j) sums_[i][j] = fmaf(a[i], b[j], sums_[i][j]);
        }
    }

    const Shared<float> a_, b_;
    float sums_[kRows][kColumns];
};

}  // namespace noema::cuda
