// row_stats: one pass (head.h). Only lists of the best tokens keep logits, some rows at a time.
#include "noema/ops/row_stats.h"

#include "cuda.h"
#include "head.h"

namespace noema::cuda {

namespace {

HeadPlan plan_of(const RowStats& p) {
    return HeadPlan(input_of(p), rows_of(p), static_cast<bool>(p.out.top_ids));
}

size_t workspace_size(const RowStats& p, const Stream&) {
    return plan_of(p).workspace();
}

Status run(const RowStats& p, const Stream& stream, Workspace workspace) {
    const HeadPlan plan = plan_of(p);
    const HeadRoom room = take_room(plan, workspace);
    return each_chunk(p, plan, [&](const HeadRows& rows) -> Status {
        NOEMA_TRY(gather_rows(p.hidden, rows, plan, room.hidden, stream));
        const HeadPass pass = make_pass(input_of(p), plan, room, rows.count);
        NOEMA_TRY(run_pass(pass, plan, stream));
        NOEMA_TRY(finish_rows(pass, room, outputs_of(p.out, rows.first), stream));
        return plan.keeps ? list_best(kept_rows(pass, plan, room), p.out, rows.first, stream) : Status{};
    });
}

}  // namespace

Op<RowStats> row_stats_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cuda
