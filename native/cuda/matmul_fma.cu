// matmul's tiles in f32, on CUDA cores.
#include "matmul_tiles.h"

namespace noema::cuda {

namespace {

using Small = FmaTile<kSmallTile, kSmallTile, 16, 128>;  // a thread 8 x 4
using Large = FmaTile<kLargeTile, kLargeTile, 16, 256>;  // a thread 8 x 8: 4 reads of 16 bytes for 64 fmaf

template <Source kA, Source kB>
Status multiply(const ProductArguments& p, bool large, const Stream& stream) {
    if (!large) return launch_tiles<FmaProduct<Small, kA, kB>, true, 3>("matmul (f32, small tiles)", p, stream);
    using Product = FmaProduct<Large, kA, kB>;
    if (p.chunks == 1 || p.partial) return launch_tiles<Product, false, 1>("matmul (f32, large tiles)", p, stream);
    return launch_tiles<Product, true, 1>("matmul (f32, large tiles, chunks)", p, stream);
}

}  // namespace

Status multiply_fma(const ProductArguments& p, Form form, bool large, const Stream& stream) {
    using enum Source;
    if (form.transpose_a)
        return form.transpose_b ? multiply<staged_lines, staged_depth>(p, large, stream)
                                : multiply<staged_lines, staged_lines>(p, large, stream);
    return form.transpose_b ? multiply<staged_depth, staged_depth>(p, large, stream)
                            : multiply<staged_depth, staged_lines>(p, large, stream);
}

}  // namespace noema::cuda
