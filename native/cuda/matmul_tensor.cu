// matmul's tiles on tensor cores.
#include "matmul_tiles.h"

namespace noema::cuda {

namespace {

// 128 threads, a warp 32 x 32: 32 sums and as many totals of a thread. 30 KB of shared memory: up to seven blocks live on a
// multiprocessor with 228 KB.
using Small = TensorTile<kSmallTile, kSmallTile, 32, 2, 2, 3>;
// 256 threads, a warp 64 x 32: 6 ldmatrix (3 KB of shared memory, 24 cycles) for 16 mma (25 to 32 cycles of all four cores).
// 80 KB for four slabs of 32 factors.
using Large = TensorTile<kLargeTile, kLargeTile, 32, 2, 4, 4>;

template <Source kA, Source kB>
Status small(const ProductArguments& p, const Stream& stream) {
    return launch_tiles<TensorProduct<Small, kA, kB>, true, 3>("matmul (bf16, small tiles)", p, stream);
}

template <Source kA, Source kB>
Status large(const ProductArguments& p, const Stream& stream) {
    using Product = TensorProduct<Large, kA, kB>;
    if (p.chunks == 1 || p.partial) return launch_tiles<Product, false, 2>("matmul (bf16, large tiles)", p, stream);
    return launch_tiles<Product, true, 1>("matmul (bf16, large tiles, chunks)", p, stream);
}

}  // namespace

Status multiply_tensor_small(const ProductArguments& p, Form form, const Stream& stream) {
    using enum Source;
    if (form.transpose_a)
        return form.transpose_b ? small<staged_lines, staged_depth>(p, stream)
                                : small<staged_lines, staged_lines>(p, stream);
    if (!form.transpose_b) return small<staged_depth, staged_lines>(p, stream);
    if (p.b.is_bf16 && p.b.vector) return small<staged_depth, async_depth>(p, stream);
    return small<staged_depth, staged_depth>(p, stream);
}

Status multiply_tensor_large(const ProductArguments& p, Form form, const Stream& stream) {
    using enum Source;
    if (form.transpose_a)
        return form.transpose_b ? large<async_lines, async_depth>(p, stream)
                                : large<async_lines, async_lines>(p, stream);
    return form.transpose_b ? large<async_depth, async_depth>(p, stream) : large<async_depth, async_lines>(p, stream);
}

}  // namespace noema::cuda
