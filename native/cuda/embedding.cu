#include "noema/ops/embedding.h"

#include "common/quads.h"
#include "cuda.h"

namespace noema::cuda {

namespace {

struct Gather {
    const int32_t* ids;
    const void* table;
    float* y;
    int64_t table_stride, y_stride;
    QuadGrid quads;
};

template <class T>
__global__ void __launch_bounds__(QuadGrid::kThreads) gather_rows(Gather p) {
    at_quad(p.quads, [&](auto whole, int64_t row, int64_t c) {
        constexpr bool kWhole = decltype(whole)::value;
        const T* from = static_cast<const T*>(p.table) + p.ids[row] * p.table_stride;
        store_quad<kWhole>(p.y + row * p.y_stride, c, p.quads.C, load_quad<kWhole>(from, c, p.quads.C));
    });
}

Status run(const Embedding& p, const Stream& stream, Workspace) {
    const int64_t R = p.y.shape[0], C = p.y.shape[1];
    const Gather g{p.ids.as<int32_t>(), p.table.data,
                   p.y.as<float>(),     p.table.stride[0],
                   p.y.stride[0],       {R * ceil_div(C, 4), ceil_div(C, 4), C, rows_aligned(p.table, p.y)}};
    return launch("embedding", stream, g.quads.grid(),
                  p.table.dtype == DType::bf16 ? gather_rows<bf16> : gather_rows<float>, g);
}

}  // namespace

Op<Embedding> embedding_entry() {
    return {run, nullptr};
}

}  // namespace noema::cuda
