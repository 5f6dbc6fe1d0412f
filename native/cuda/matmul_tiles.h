// A tile of C per block, with any product of common/product.h.
#pragma once

#include "common/product.h"
#include "matmul_kernels.h"

namespace noema::cuda {

struct TilePlace {
    int row, column;
};

/// Block `index`'s tile: bands of eight tiles of rows, column by column within a band, so that the blocks that run at a time
/// share operands in the second-level cache.
__device__ __forceinline__ TilePlace tile_place(int index, int down, int across, int kM, int kN) {
    constexpr int kBand = 8;
    const int band = index / (kBand * across), within = index - band * kBand * across;
    const int high = min(kBand, down - band * kBand);
    return {(band * kBand + within % high) * kM, within / high * kN};
}

// Finished tiles go through shared memory: rows of C are then written by neighbouring threads, and the epilogue is a loop instead of
// its code once for every register.
template <class Product>
struct Staging {
    static constexpr int kPitch = Product::kN + 8;  // eight rows of pairs then lie in different banks
    static constexpr int kFloats = Product::kM * kPitch;
    static constexpr int kSharedBytes = Product::kSharedBytes > kFloats * 4 ? Product::kSharedBytes : kFloats * 4;
};

template <class Product>
__device__ __forceinline__ void stage_tile(Product& sums, Shared<float> tile) {
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Product::kColumns; j += 2)
            tile.as<float2>()[(sums.row(i) * Staging<Product>::kPitch + sums.column(j)) / 2] =
                make_float2(sums.at(i, j), sums.at(i, j + 1));
}

__device__ __forceinline__ void store_partial(const ProductArguments& p, float2 sum, int64_t m, int n) {
    if (m >= p.out.M || n >= p.out.N) return;
    float* to = p.partial + (static_cast<int64_t>(blockIdx.z) * p.out.M + m) * p.out.N + n;
    to[0] = sum.x;
    if (n + 1 < p.out.N) to[1] = sum.y;
}

template <class Product>
__device__ __forceinline__ void finish_tile(const ProductArguments& p, Shared<float> tile, TilePlace at) {
    constexpr int kHalf = Product::kN / 2;
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < Product::kM * kHalf; i += Product::kThreads) {
        const int row = i / kHalf, column = i % kHalf * 2;
        const float2 sum = tile.as<float2>()[(row * Staging<Product>::kPitch + column) / 2];
        if (p.partial)
            store_partial(p, sum, at.row + row, at.column + column);
        else
            finish_pair(p.out, sum.x, sum.y, at.row + row, at.column + column);
    }
}

/// kMany: with room for the sum over several chunks. Without it there is one, or a block for each. kResident: blocks that a
/// multiprocessor must have registers for.
template <class Product, bool kMany, int kResident>
__global__ void __launch_bounds__(Product::kThreads, kResident) multiply_tile(ProductArguments p) {
    const TilePlace at = tile_place(static_cast<int>(blockIdx.x), (p.out.M + Product::kM - 1) / Product::kM,
                                    (p.out.N + Product::kN - 1) / Product::kN, Product::kM, Product::kN);
    const Factors factors{p.a, at.row, p.b, at.column};
    const int begin = p.partial ? static_cast<int>(blockIdx.z) * p.chunk : 0;
    const int end = p.partial ? min(begin + p.chunk, p.K) : p.K;
    Product sums;
    sums.clear();
    if constexpr (kMany) {
        float total[Product::kRows][Product::kColumns] = {};
        const auto fold = [&] {
#pragma unroll
            for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
                for (int j = 0; j < Product::kColumns; ++j) {
                    total[i][j] += sums.at(i, j);
                    sums.at(i, j) = 0;
                }
        };
        sums.run(factors, begin, end, p.chunk, fold);
        fold();
#pragma unroll
        for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
            for (int j = 0; j < Product::kColumns; ++j) sums.at(i, j) = total[i][j];
    } else {
        sums.run(factors, begin, end);
    }
    const auto tile = dynamic_shared<float>(0, Staging<Product>::kFloats);
    stage_tile(sums, tile);
    __syncthreads();
    finish_tile<Product>(p, tile, at);
}

template <class Product, bool kMany, int kResident>
Status launch_tiles(const char* name, const ProductArguments& p, const Stream& stream) {
    const int64_t tiles = ceil_div(p.out.M, Product::kM) * ceil_div(p.out.N, Product::kN);
    const dim3 blocks(static_cast<unsigned>(tiles), 1, static_cast<unsigned>(p.partial ? p.chunks : 1));
    return launch(name, stream,
                  {.blocks = blocks, .threads = Product::kThreads, .shared_bytes = Staging<Product>::kSharedBytes},
                  multiply_tile<Product, kMany, kResident>, p);
}

}  // namespace noema::cuda
