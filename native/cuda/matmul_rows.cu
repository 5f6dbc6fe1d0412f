// matmul of at most 16 rows, as decoding needs it: the time is that of reading the weight once.
//
// A warp owns 8 columns of C and one chunk of K, and brings its weights through a ring of its own: cp.async, six slabs of 8 x 128
// bytes, no barrier of the block. A block of up to 8 warps is every chunk of some groups of columns, so chunks meet in shared memory.
// The rows of A lie there too, converted once. With one block of 8 warps a multiprocessor has 40 KB of weights under way; 4.8 TB/s
// at 800 ns of latency over 132 multiprocessors ask for 29.
#include "common/product.h"
#include "matmul_kernels.h"

namespace noema::cuda {

namespace {

constexpr int kMostThreads = 256, kColumns = 8, kSlabBytes = 128, kRing = 6;
constexpr int kRingPitch = kSlabBytes + 16;  // eight lines then lie in different banks
constexpr int kRingBytes = kRing * kColumns * kRingPitch;
constexpr int kSumsBytes = kMostRows * kColumns * 4;
constexpr size_t kMostShared = 99 << 10;  // what every device has, and two blocks fit where there is more

template <class Factor>
constexpr int row_pitch(int K) {
    return (K + 63) / 64 * 64 + 16 / static_cast<int>(sizeof(Factor));
}

/// A warp's weights: lines of kSlabBytes in kRing stages.
template <class W>
class Ring {
 public:
    static constexpr int kDepth = kSlabBytes / static_cast<int>(sizeof(W));  // factors in a slab

    __device__ __forceinline__ Ring(const ProductArguments& p, int warp, int column, int begin, int end)
        : ring_(dynamic_shared<unsigned short>(warp * kRingBytes, kRingBytes / 2)), end_(end) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int line = column + lane / 8 + 4 * i;
            inside_[i] = line < p.b.lines;
            source_[i] =
                static_cast<const W*>(p.b.data) + (inside_[i] ? line * p.b.stride : 0) + lane % 8 * (16 / sizeof(W));
        }
        for (int s = 0; s < kRing - 1; ++s) start(begin + s * kDepth, s);
    }
    /// Copies the slab at k, if there is one, and closes a group of copies.
    __device__ __forceinline__ void start(int k, int stage) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int left = (end_ - k) * static_cast<int>(sizeof(W)) - lane % 8 * 16;  // bytes
        if (k < end_) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int bytes = inside_[i] ? min(max(left, 0), 16) : 0;
                copy_async_16(line(stage, lane / 8 + 4 * i) + lane % 8 * 8,
                              bytes ? source_[i] + k : static_cast<const W*>(source_[i]), bytes);
            }
        }
        copy_async_commit();
    }
    __device__ __forceinline__ Shared<unsigned short> line(int stage, int column) const {
        return ring_ + ((stage * kColumns + column) * kRingPitch) / 2;
    }

 private:
    const Shared<unsigned short> ring_;
    const W* source_[2];
    bool inside_[2];
    const int end_;
};

/// The rows of A as `Factor`, with zeros up to a multiple of 64 factors.
template <class Factor>
__device__ __forceinline__ void bring_rows(const ProductArguments& p, Shared<Factor> rows) {
    const int pitch = row_pitch<Factor>(p.K), in_row = (p.K + 63) / 64 * 8;
#pragma unroll 2
    for (int piece = static_cast<int>(threadIdx.x); piece < p.out.M * in_row; piece += static_cast<int>(blockDim.x)) {
        const int m = piece / in_row, k = piece % in_row * 8;
        const auto* from = static_cast<const unsigned char*>(p.a.data) + (m * p.a.stride + k) * (p.a.is_bf16 ? 2 : 4);
        const Raw raw = load_eight(from, p.K - k, p.a.is_bf16, p.a.vector);
        if constexpr (sizeof(Factor) == 2) {
            rows.template as<uint4>()[(m * pitch + k) / 8] = to_bf16s(raw, p.a.is_bf16);
        } else {
            float x[8];
            to_floats(raw, p.a.is_bf16, x);
            rows.template as<float4>()[(m * pitch + k) / 4] = make_float4(x[0], x[1], x[2], x[3]);
            rows.template as<float4>()[(m * pitch + k) / 4 + 1] = make_float4(x[4], x[5], x[6], x[7]);
        }
    }
}

/// Tensor cores: one mma is 16 rows x 8 columns. Rows that do not exist repeat the last one.
struct TensorRows {
    using Factor = bf16;
    using Weight = bf16;

    __device__ __forceinline__ void add(const Ring<bf16>& ring, int stage, Shared<bf16> rows, const ProductArguments& p,
                                        int k, int end) {
        const int lane = static_cast<int>(threadIdx.x) % 32, pitch = row_pitch<bf16>(p.K);
        const Shared<bf16> row = rows + (min(lane % 16, p.out.M - 1) * pitch + lane / 16 * 8);
        const Shared<unsigned short> column = ring.line(stage, lane % 8) + lane / 8 * 8;
#pragma unroll
        for (int half = 0; half < 64; half += 32) {
            if (k + half >= end) break;
            uint32_t b[4], a[4];
            load_matrices_x4(b, column + half);
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            load_matrices_x4(a, row + (k + half));
            mma_16x8x16(sums, a, first);
            load_matrices_x4(a, row + (k + half + 16));
            mma_16x8x16(sums, a, second);
        }
    }
    __device__ __forceinline__ void store(Shared<float> to, int) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < 4; ++i) to[(lane / 4 + i / 2 * 8) * kColumns + lane % 4 * 2 + i % 2] = sums[i];
    }

    float sums[4] = {0, 0, 0, 0};
};

/// CUDA cores: lane % 8 is the column, lane / 8 the first of up to four rows.
template <class W>
struct FmaRows {
    using Factor = float;
    using Weight = W;

    __device__ __forceinline__ void add(const Ring<W>& ring, int stage, Shared<float> rows, const ProductArguments& p,
                                        int k, int end) {
        const int lane = static_cast<int>(threadIdx.x) % 32, pitch = row_pitch<float>(p.K);
        const Shared<unsigned short> column = ring.line(stage, lane % 8);
        const int depth = min(Ring<W>::kDepth, (end - k + 15) / 16 * 16);
        for (int at = 0; at < depth; at += 4) {
            const float4 w = four(column, at, W{});
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (4 * i >= p.out.M) break;
                const int m = min(lane / 8 + 4 * i, p.out.M - 1);
                const float4 x = rows.as<float4>()[(m * pitch + k + at) / 4];
                sums[i] = fmaf(x.w, w.w, fmaf(x.z, w.z, fmaf(x.y, w.y, fmaf(x.x, w.x, sums[i]))));
            }
        }
    }
    __device__ __forceinline__ static float4 four(Shared<unsigned short> column, int at, float) {
        return column.as<float4>()[at / 4];
    }
    __device__ __forceinline__ static float4 four(Shared<unsigned short> column, int at, bf16) {
        const uint2 pairs = column.as<uint2>()[at / 4];
        return make_float4(__uint_as_float(pairs.x << 16), __uint_as_float(pairs.x & 0xFFFF0000u),
                           __uint_as_float(pairs.y << 16), __uint_as_float(pairs.y & 0xFFFF0000u));
    }
    __device__ __forceinline__ void store(Shared<float> to, int M) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (lane / 8 + 4 * i < M) to[(lane / 8 + 4 * i) * kColumns + lane % 8] = sums[i];
    }

    float sums[4] = {0, 0, 0, 0};
};

/// Warp w: chunk w % chunks of the block's group of columns w / chunks.
template <class Sums>
__global__ void __launch_bounds__(kMostThreads) multiply_rows(ProductArguments p) {
    using Factor = typename Sums::Factor;
    using RingOf = Ring<typename Sums::Weight>;
    const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int groups = warps / p.chunks, group = warp / p.chunks, chunk = warp % p.chunks;
    const int first = static_cast<int>(blockIdx.x) * groups * kColumns;
    const int begin = chunk * p.chunk, end = min(begin + p.chunk, p.K);
    const RingOf ring(p, warp, first + group * kColumns, begin, end);
    const auto rows = dynamic_shared<Factor>(warps * kRingBytes, p.out.M * row_pitch<Factor>(p.K));
    bring_rows(p, rows);
    __syncthreads();

    Sums sums;
    for (int k = begin, stage = 0; k < end; k += RingOf::kDepth) {
        copy_async_wait<kRing - 2>();
        __syncwarp();  // the slab is there for all lanes, and none reads the last one any more
        ring.start(k + (kRing - 1) * RingOf::kDepth, stage == 0 ? kRing - 1 : stage - 1);
        sums.add(ring, stage, rows, p, k, end);
        stage = stage + 1 == kRing ? 0 : stage + 1;
    }
    const auto all =
        dynamic_shared<float>(warps * kRingBytes + p.out.M * row_pitch<Factor>(p.K) * static_cast<int>(sizeof(Factor)),
                              warps * kSumsBytes / 4);
    sums.store(all + warp * kSumsBytes / 4, p.out.M);
    __syncthreads();

    for (int i = static_cast<int>(threadIdx.x); i < groups * p.out.M * kColumns / 2;
         i += static_cast<int>(blockDim.x)) {
        const int pair = i % (kColumns / 2), g = i / (kColumns / 2) % groups, m = i / (kColumns / 2) / groups;
        const int at = (g * p.chunks * kMostRows + m) * kColumns + 2 * pair;
        float low = all[at], high = all[at + 1];
        for (int c = 1; c < p.chunks; ++c) {
            low += all[at + c * kMostRows * kColumns];
            high += all[at + c * kMostRows * kColumns + 1];
        }
        finish_pair(p.out, low, high, m, first + g * kColumns + 2 * pair);
    }
}

template <class Sums>
size_t shared_bytes(int warps, int64_t M, int64_t K) {
    return static_cast<size_t>(warps * (kRingBytes + kSumsBytes)) +
           static_cast<size_t>(M * row_pitch<typename Sums::Factor>(static_cast<int>(K))) *
               sizeof(typename Sums::Factor);
}

/// Groups of columns in a block: as many as it has warps for, unless that leaves multiprocessors without one.
int groups_of(int64_t N, int chunks, const Stream& stream) {
    const int64_t most = kMostThreads / 32 / chunks,
                  even = ceil_div(N, kColumns) / queue_of(stream).device.multiprocessors;
    return static_cast<int>(even < 1 ? 1 : even < most ? even : most);
}

template <class Sums>
Status launch_rows(const char* name, const ProductArguments& p, const Stream& stream) {
    const int groups = groups_of(p.out.N, p.chunks, stream), warps = groups * p.chunks;
    return launch(name, stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(p.out.N, groups * kColumns))),
                   .threads = 32 * warps,
                   .shared_bytes = shared_bytes<Sums>(warps, p.out.M, p.K)},
                  multiply_rows<Sums>, p);
}

}  // namespace

bool rows_fit(int64_t M, int64_t K, bool tensor) {
    const int warps = kMostThreads / 32;
    const size_t bytes = tensor ? shared_bytes<TensorRows>(warps, M, K) : shared_bytes<FmaRows<float>>(warps, M, K);
    return M <= kMostRows && bytes <= kMostShared;
}

Status multiply_rows(const ProductArguments& p, bool tensor, const Stream& stream) {
    if (tensor) return launch_rows<TensorRows>("matmul (bf16, few rows)", p, stream);
    if (p.b.is_bf16) return launch_rows<FmaRows<bf16>>("matmul (f32, few rows, bf16 weight)", p, stream);
    return launch_rows<FmaRows<float>>("matmul (f32, few rows)", p, stream);
}

}  // namespace noema::cuda
