// The head's pass on tensor cores. Hidden states are bf16 and aligned (gather_rows); the weight may be anything.
#include "head_pass.h"

namespace noema::cuda {

namespace {

using enum Source;

// Pieces of 32 tokens in both. Few rows are a matter of bringing the weight in: 62 KB of slabs, three blocks on a multiprocessor
// with 228 KB keep 110 KB under way. Many rows: a warp 64 x 32, 80 KB.
using Few = TensorTile<16, 128, 64, 1, 4, 3>;
using Many = TensorTile<128, 128, 32, 2, 4, 4>;
constexpr int kFew = 32;

}  // namespace

Status head_pass_tensor(const HeadPass& p, const Stream& stream) {
    const bool few = p.hidden.lines <= kFew;
    if (p.weight.is_bf16 && p.weight.vector) {
        if (few)
            return launch_pass<TensorProduct<Few, async_depth, async_depth>, 1>("head (bf16, few rows)", p, stream);
        // With noise, the keys of random numbers leave no room for a second block in the registers.
        return launch_pass<TensorProduct<Many, async_depth, async_depth>, 2, 1>("head (bf16)", p, stream);
    }
    // Registers hold what is on its way to shared memory: no two blocks of the large tile.
    if (few)
        return launch_pass<TensorProduct<Few, async_depth, staged_depth>, 1>("head (to bf16, few rows)", p, stream);
    return launch_pass<TensorProduct<Many, async_depth, staged_depth>, 1>("head (to bf16)", p, stream);
}

}  // namespace noema::cuda
