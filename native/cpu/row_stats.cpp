#include <algorithm>

#include "cpu/head_stats.h"

namespace noema::cpu {

namespace {

struct Call {
    explicit Call(const RowStats& p)
        : R(p.rows ? p.rows.shape[0] : p.hidden.shape[0]),
          product({p.hidden, p.weight, p.bias, p.precision, p.excluded_id}, R, Keep::chunk),
          stats(needs_of(p.out, p.weight.view.shape[0] - (p.excluded_id >= 0)), product.block_rows(), p.excluded_id) {}

    int64_t R;
    HeadProduct product;
    HeadStats stats;
};

size_t workspace_size(const RowStats& p, const Stream& stream) {
    const Call call(p);
    return call.product.workspace(stream) + call.stats.workspace(stream);
}

Status run(const RowStats& p, const Stream& stream, Workspace workspace) {
    Call call(p);
    call.stats.open(workspace, stream);
    call.product.open(workspace);
    for (int64_t first = 0; first < call.R; first += call.product.block_rows()) {
        const int64_t count = std::min(call.product.block_rows(), call.R - first);
        call.product.gather(stream, p.rows ? p.rows.as<int32_t>() + first : nullptr, first, count);
        for (int64_t row = 0; row < count; ++row) call.stats.start(row);
        NOEMA_TRY(
            call.product.each_chunk(stream, count, [&](int64_t row, const float* x, int64_t id, int64_t n, int worker) {
                call.stats.observe(row, x, id, n, worker);
            }));
        HeadProduct::each_row(stream, count, [&](int64_t row, int) {
            call.stats.finish(row);
            call.stats.write(p.out, first + row, row);
        });
    }
    return {};
}

}  // namespace

Op<RowStats> row_stats_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cpu
