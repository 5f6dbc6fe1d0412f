// The products of cross_entropy's gradients.
#include "cross_entropy.h"

#include "common/product.h"
#include "head_state.h"

namespace noema::cuda {

namespace {

using enum Source;

// A warp 64 x 32; 80 KB of shared memory, two blocks on a multiprocessor.
using OnTensorCores = TensorTile<kProbabilityTile, kProbabilityTile, 32, 2, 4, 4>;
using OnCudaCores = FmaTile<kProbabilityTile, kProbabilityTile, 16, 256>;
template <class Product>
constexpr int kBlocks = Product::kRowLanes == 4 ? 2 : 1;

__device__ __forceinline__ void store_pair(bf16* at, float low, float high) {
    *reinterpret_cast<uint32_t*>(at) = pack_bf16(low, high);
}
__device__ __forceinline__ void store_pair(float* at, float low, float high) {
    *reinterpret_cast<float2*>(at) = make_float2(low, high);
}

/// What turns a row's logits into its part of P.
struct RowScale {
    float max, factor, weight;
    int target;  // column of the tile
};

__device__ __forceinline__ RowScale row_scale(const Probabilities& p, int row, int column) {
    const HeadState s = read_state(p.states + row);
    const float weight = p.scales ? p.scales[row] : 1.0f;
    return {s.max, is_broken(s) ? __int_as_float(0x7FC00000) : weight / s.sum, weight,
            p.targets[row] - p.first - column};
}

/// The tile's sums become P, 0 beyond the rows and the tokens.
template <class Product>
__device__ __forceinline__ void to_probabilities(Product& sums, const Probabilities& p, int row0, int column,
                                                 int rows) {
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i) {
        const int row = row0 + sums.row(i);
        const bool there = row < rows;
        const RowScale scale = row_scale(p, there ? row : 0, column);
#pragma unroll
        for (int j = 0; j < Product::kColumns; ++j) {
            const int c = sums.column(j), v = column + c;
            const float bias = p.bias && v < p.weight.lines ? p.bias[v] : 0.0f, x = sums.at(i, j) + bias;
            const float e = p.first + v == p.excluded ? 0.0f : exp_of(x - scale.max);
            const float value = fmaf(e, scale.factor, c == scale.target ? -scale.weight : 0.0f);
            sums.at(i, j) = there && v < p.weight.lines ? value : 0.0f;
        }
    }
}

/// One row of column_sums: rows of a thread, then of the lanes and the warps above each other.
template <class Product>
__device__ __forceinline__ void sum_columns(Product& sums, float* out, int columns, Shared<float> parts) {
    constexpr int kGroups = Product::kThreads / 32 / Product::kRowWarps;
    const int group = static_cast<int>(threadIdx.x) / 32 / Product::kRowWarps, lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < Product::kRows; ++i) sum += sums.at(i, j);
#pragma unroll
        for (int bits = Product::kRowLanes; bits < 32; bits *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bits);
        if (lane < Product::kRowLanes) parts[group * Product::kN + sums.column(j)] = sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < Product::kN && c < columns; c += Product::kThreads) {
        float sum = parts[c];
        for (int g = 1; g < kGroups; ++g) sum += parts[g * Product::kN + c];
        out[c] = sum;
    }
}

template <class Product, class T>
__global__ void __launch_bounds__(Product::kThreads, kBlocks<Product>) probability_tile(Probabilities p) {
    constexpr int kParts = Product::kThreads / 32 / Product::kRowWarps * Product::kN;
    static_assert(4 * kParts <= Product::kSharedBytes);
    const int row0 = static_cast<int>(blockIdx.x) * Product::kM, column = static_cast<int>(blockIdx.y) * Product::kN;
    const int rows = *p.count;
    if (row0 >= rows) return;
    Product sums;
    sums.clear();
    sums.run({p.hidden, row0, p.weight, column}, 0, p.C);
    to_probabilities(sums, p, row0, column, rows);
    T* const out = static_cast<T*>(p.p) + row0 * p.pitch + column;
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Product::kColumns; j += 2)
            if (row0 + sums.row(i) < rows && column + sums.column(j) < p.weight.lines)
                store_pair(out + sums.row(i) * p.pitch + sums.column(j), sums.at(i, j), sums.at(i, j + 1));
    if (p.column_sums)
        sum_columns(sums, p.column_sums + blockIdx.x * p.pitch + column, p.weight.lines - column,
                    dynamic_shared<float>(0, kParts));
}

template <class Product, class T>
Status launch_probabilities(const char* name, const Probabilities& p, const Stream& stream) {
    const dim3 blocks(static_cast<unsigned>(ceil_div(p.hidden.lines, Product::kM)),
                      static_cast<unsigned>(ceil_div(p.weight.lines, Product::kN)));
    return launch(name, stream, {.blocks = blocks, .threads = Product::kThreads, .shared_bytes = Product::kSharedBytes},
                  probability_tile<Product, T>, p);
}

/// Row `row` of the tile's elements of `out`.
template <bool kScored>
__device__ __forceinline__ float* out_row(const Accumulation& p, int row, int column) {
    return p.out + (kScored ? p.rows[row] : row) * p.stride + column;
}

template <bool kScored, class Product>
__device__ __forceinline__ void load_sums(Product& sums, const Accumulation& p, int row0, int column, int rows) {
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i) {
        const int row = row0 + sums.row(i);
        const float* from = out_row<kScored>(p, min(row, rows - 1), column);
#pragma unroll
        for (int j = 0; j < Product::kColumns; ++j) {
            const int c = sums.column(j);
            sums.at(i, j) = row < rows && column + c < p.b.lines ? from[c] : 0.0f;
        }
    }
}

template <bool kScored, class Product>
__device__ __forceinline__ void store_sums(Product& sums, const Accumulation& p, int row0, int column, int rows) {
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i) {
        const int row = row0 + sums.row(i);
        if (row >= rows) continue;
        float* to = out_row<kScored>(p, row, column);
#pragma unroll
        for (int j = 0; j < Product::kColumns; j += 2) {
            const int c = sums.column(j), left = p.b.lines - column - c;
            if (left >= 2 && p.pairs) {
                store_pair(to + c, sums.at(i, j), sums.at(i, j + 1));
                continue;
            }
            if (left >= 1) to[c] = sums.at(i, j);
            if (left >= 2) to[c + 1] = sums.at(i, j + 1);
        }
    }
}

/// kScored: the rows of `out` are the scored ones; else k counts them.
template <class Product, bool kScored>
__global__ void __launch_bounds__(Product::kThreads, kBlocks<Product>) accumulate_tile(Accumulation p) {
    const int column = static_cast<int>(blockIdx.x) * Product::kN, row0 = static_cast<int>(blockIdx.y) * Product::kM;
    const int rows = kScored ? *p.count : p.a.lines, depth = kScored ? p.K : *p.count;
    if (row0 >= rows || depth == 0) return;
    Product sums;
    if (p.from_zero)
        sums.clear();
    else
        load_sums<kScored>(sums, p, row0, column, rows);
    sums.run({p.a, row0, p.b, column}, 0, depth);
    // Asked for again: the product has need of every register.
    store_sums<kScored>(sums, p, row0, column, kScored ? *p.count : p.a.lines);
}

template <class Product, bool kScored>
Status launch_accumulation(const char* name, const Accumulation& p, const Stream& stream) {
    const dim3 blocks(static_cast<unsigned>(ceil_div(p.b.lines, Product::kN)),
                      static_cast<unsigned>(ceil_div(p.a.lines, Product::kM)));
    return launch(name, stream, {.blocks = blocks, .threads = Product::kThreads, .shared_bytes = Product::kSharedBytes},
                  accumulate_tile<Product, kScored>, p);
}

}  // namespace

Status form_probabilities(const Probabilities& p, const Stream& stream) {
    if (p.hidden.is_bf16)
        return launch_probabilities<TensorProduct<OnTensorCores, async_depth, async_depth>, bf16>(
            "cross_entropy (probabilities, bf16)", p, stream);
    return launch_probabilities<FmaProduct<OnCudaCores, staged_depth, staged_depth>, float>(
        "cross_entropy (probabilities, f32)", p, stream);
}

Status add_input_gradient(const Accumulation& p, const Stream& stream) {
    if (p.a.is_bf16)
        return launch_accumulation<TensorProduct<OnTensorCores, async_depth, async_lines>, true>(
            "cross_entropy (d_hidden, bf16)", p, stream);
    return launch_accumulation<FmaProduct<OnCudaCores, staged_depth, staged_lines>, true>(
        "cross_entropy (d_hidden, f32)", p, stream);
}

Status add_weight_gradient(const Accumulation& p, const Stream& stream) {
    if (p.a.is_bf16)
        return launch_accumulation<TensorProduct<OnTensorCores, async_lines, async_lines>, false>(
            "cross_entropy (d_weight, bf16)", p, stream);
    return launch_accumulation<FmaProduct<OnCudaCores, staged_lines, staged_lines>, false>(
        "cross_entropy (d_weight, f32)", p, stream);
}

}  // namespace noema::cuda
