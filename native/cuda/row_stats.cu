// row_stats: one pass (head.h). Only lists of the best tokens keep logits, some rows at a time.
#include "noema/ops/row_stats.h"

#include "cuda.h"
#include "head.h"

namespace noema::cuda {

namespace {

HeadInput input_of(const RowStats& p) {
    return {p.hidden, p.weight.view, p.bias, p.excluded_id, p.precision};
}

int64_t rows_of(const RowStats& p) {
    return p.rows ? p.rows.shape[0] : p.hidden.shape[0];
}

HeadPlan plan_of(const RowStats& p) {
    return HeadPlan(input_of(p), rows_of(p), static_cast<bool>(p.out.top_ids));
}

size_t workspace_size(const RowStats& p, const Stream&) {
    return plan_of(p).workspace();
}

Status run(const RowStats& p, const Stream& stream, Workspace workspace) {
    const HeadInput in = input_of(p);
    const HeadPlan plan = plan_of(p);
    const HeadRoom room = take_room(plan, workspace);
    const int64_t R = rows_of(p);
    for (int64_t first = 0; first < R; first += plan.at_once) {
        const int64_t count = R - first < plan.at_once ? R - first : plan.at_once;
        NOEMA_TRY(
            gather_rows(p.hidden, {data_or_null<int32_t>(p.rows, first), first, count}, plan, room.hidden, stream));
        const HeadPass pass = make_pass(in, plan, room, count);
        NOEMA_TRY(run_pass(pass, plan, stream));
        NOEMA_TRY(finish_rows(pass, room, outputs_of(p.out, first), stream));
        const KeptRows kept{room.logits, room.states, plan.logits_pitch, pass.hidden.lines, pass.V, pass.excluded};
        if (plan.keeps) NOEMA_TRY(list_best(kept, p.out, first, stream));
    }
    return {};
}

}  // namespace

Op<RowStats> row_stats_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cuda
