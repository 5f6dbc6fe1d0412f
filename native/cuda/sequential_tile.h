// Some rows of a flow's body in a block's shared memory, as the persistent kernel of sequential_inverse and the kernels of
// sequential_sweep have them: the residual stream and its norms, and the factors of products. Neither way may another sum be made.
#pragma once

#include <type_traits>

#include "sequential_inverse.h"

namespace noema::cuda {

template <bool kTensor>
class SequentialTile {
 public:
    using Sums = std::conditional_t<kTensor, TensorSums, FmaSums<kTileRows>>;
    using Factor = typename Sums::Factor;
    using Rows = FactorRows<Factor>;

    __device__ __forceinline__ explicit SequentialTile(const SequentialArguments& p)
        : p_(p),
          state_(dynamic_shared<float>(p.shared.state, p.shared.tile * p.shared.state_pitch)),
          scratch_(dynamic_shared<float>(p.shared.sums, p.shared.sums_floats)) {}

 protected:
    __device__ __forceinline__ FactorRows<float> wide_rows(int count) const {
        return {state_, p_.shared.state_pitch, count};
    }
    __device__ __forceinline__ Rows rows(int count) const {
        if constexpr (kTensor)
            return {dynamic_shared<bf16>(p_.shared.narrow, p_.shared.tile * p_.shared.narrow_pitch),
                    p_.shared.narrow_pitch, count};
        else
            return wide_rows(count);
    }
    static __device__ __forceinline__ void put(const FactorRows<float>& rows, int m, int i, float x) {
        rows.data[m * rows.pitch + i] = x;
    }
    static __device__ __forceinline__ void put(const FactorRows<bf16>& rows, int m, int i, float x) {
        rows.data[m * rows.pitch + i] = to_bf16(x);
    }
    /// Factors value(m, i), i < K.
    template <class R, class Value>
    __device__ __forceinline__ void fill(const R& rows, int K, const Value& value) const {
        const int width = whole_steps(K);
        for (int item = static_cast<int>(threadIdx.x); item < rows.count * width; item += kSequentialThreads) {
            const int m = item / width, i = item - m * width;
            put(rows, m, i, i < K ? value(m, i) : 0.0f);
        }
        __syncthreads();
    }

    /// rms_norm of the residual stream, whose columns c to c + 3 of row m are quad(m, c). So many threads share a row as it has quads, a
    /// power of two: the row's sum does not depend on how many rows there are.
    template <class R, class Quad>
    __device__ __forceinline__ void norm(const float* weight, const R& to, const Quad& quad) const {
        const int thread = static_cast<int>(threadIdx.x), width = row_threads(p_.C), lane = thread % width;
        const int at_once = kSequentialThreads / width, warps = width / 32;
        const Shared<float> squares = scratch_;  // [rows, warps]
        for (int m = thread / width; m < to.count; m += at_once) {
            float square = 0;
            for (int c = 4 * lane; c < p_.C; c += 4 * width) {
                const float4 x = quad(m, c);
                const float e[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) square = c + i < p_.C ? fmaf(e[i], e[i], square) : square;
                state_.template as<float4>()[(m * p_.shared.state_pitch + c) / 4] = x;
            }
            square = warp_reduce(square, Sum{});
            if (thread % 32 == 0) squares[m * warps + lane / 32] = square;
        }
        __syncthreads();
        for (int m = thread / width; m < to.count; m += at_once) {
            float sum = squares[m * warps];
            for (int w = 1; w < warps; ++w) sum += static_cast<float>(squares[m * warps + w]);
            const float scale = rsqrtf(sum / static_cast<float>(p_.C) + p_.epsilon);
            for (int i = lane; i < whole_steps(p_.C); i += width)
                put(to, m, i,
                    i < p_.C ? static_cast<float>(state_[m * p_.shared.state_pitch + i]) * scale * weight[i] : 0.0f);
        }
        __syncthreads();
    }
    static __device__ __forceinline__ int row_threads(int C) {
        int width = 32;
        while (width < kSequentialThreads && 4 * width < C) width *= 2;
        return width;
    }
    __device__ __forceinline__ int64_t row_at(int b) const {
        return static_cast<int64_t>(b) * p_.pitch;
    }

    const SequentialArguments& p_;
    const Shared<float> state_, scratch_;
};

}  // namespace noema::cuda
