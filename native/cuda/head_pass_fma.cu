// The head's pass in f32, on CUDA cores.
#include "head_pass.h"

namespace noema::cuda {

namespace {

using enum Source;

// A piece is all 128 columns of a tile in both.
using Few = FmaTile<16, 128, 32, 64>;
using Many = FmaTile<64, 128, 32, 256>;
constexpr int kFew = 32;

}  // namespace

Status head_pass_fma(const HeadPass& p, const Stream& stream) {
    if (p.hidden.lines <= kFew)
        return launch_pass<FmaProduct<Few, staged_depth, staged_depth>, 1>("head (f32, few rows)", p, stream);
    return launch_pass<FmaProduct<Many, staged_depth, staged_depth>, 1>("head (f32)", p, stream);
}

}  // namespace noema::cuda
