#include "common/column_sums.h"

namespace noema::cuda {

namespace {

__global__ void __launch_bounds__(ColumnTile::kThreads) add_columns(ColumnSums p) {
    SHARED_ARRAY(float, scratch, ColumnTile::kThreads);
    const int64_t c = ColumnTile::column();
    const bool inside = c < p.C;
    for (int64_t group = blockIdx.y; group < p.groups; group += gridDim.y) {
        const float* parts = p.parts + group * p.n * p.C + c;
        const float sum =
            ColumnTile::sum<float>(p.n, scratch, [&](int64_t i) { return inside ? parts[i * p.C] : 0.0f; });
        if (!inside || threadIdx.x >= ColumnTile::kColumns) continue;
        float* to = p.to + group * p.stride + c;
        *to = p.accumulate ? *to + sum : sum;
    }
}

}  // namespace

Status column_sums(const ColumnSums& p, const Stream& stream) {
    const unsigned groups = static_cast<unsigned>(p.groups < kMostGridRows ? p.groups : kMostGridRows);
    return launch("column_sums", stream,
                  {.blocks = dim3(ColumnTile::tiles(p.C), groups), .threads = ColumnTile::kThreads}, add_columns, p);
}

}  // namespace noema::cuda
