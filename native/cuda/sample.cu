// sample: greedy, and Gumbel noise over all tokens, happen in row_stats' pass. top_k, top_p and categorical draws need a row's
// logits together, so these are kept, some rows at a time.
#include "noema/ops/sample.h"

#include "cuda.h"
#include "head.h"

namespace noema::cuda {

namespace {

/// How many tokens top_k leaves, 0: all.
int64_t kept_tokens(const Sample& p) {
    const int64_t tokens = p.weight.view.shape[0] - (p.excluded_id >= 0 ? 1 : 0);
    return p.top_k > 0 && p.top_k < tokens ? p.top_k : 0;
}

/// The tokens are drawn from kept logits.
bool draws_from_rows(const Sample& p) {
    return p.temperature > 0 && (kept_tokens(p) > 0 || p.top_p < 1 || p.kind == SampleKind::categorical);
}

HeadPlan plan_of(const Sample& p) {
    return HeadPlan(input_of(p), rows_of(p), p.out.top_ids || draws_from_rows(p));
}

Noise noise_of(const Sample& p, int64_t first) {
    const float beta = 1.0f / p.temperature;
    return {.seeds = p.seeds.as<int64_t>() + first,
            .positions = p.positions.as<int32_t>() + first,
            .steps = data_or_null<int32_t>(p.steps, first),
            .step = static_cast<uint32_t>(p.step),
            .beta = beta < 3e38f ? beta : 3e38f};
}

size_t workspace_size(const Sample& p, const Stream&) {
    return plan_of(p).workspace();
}

Status draw_chunk(const Sample& p, const HeadPlan& plan, const HeadRoom& room, const HeadRows& rows,
                  const Stream& stream) {
    const bool from_rows = draws_from_rows(p);
    HeadPass pass = make_pass(input_of(p), plan, room, rows.count);
    if (p.temperature > 0 && !from_rows) pass.noise = noise_of(p, rows.first);
    HeadOutputs out = outputs_of(p.out, rows.first);
    if (!from_rows) {
        out.tokens = p.tokens.as<int32_t>() + rows.first;
        out.logit = data_or_null<float>(p.logit, rows.first);
        out.greedy = p.temperature == 0;
    }
    NOEMA_TRY(gather_rows(p.hidden, rows, plan, room.hidden, stream));
    NOEMA_TRY(run_pass(pass, plan, stream));
    NOEMA_TRY(finish_rows(pass, room, out, stream));
    const KeptRows kept = kept_rows(pass, plan, room);
    if (p.out.top_ids) NOEMA_TRY(list_best(kept, p.out, rows.first, stream));
    if (!from_rows) return {};
    const Choice choice{.noise = noise_of(p, rows.first),
                        .tokens = p.tokens.as<int32_t>() + rows.first,
                        .logit = data_or_null<float>(p.logit, rows.first),
                        .top_k = kept_tokens(p),
                        .top_p = p.top_p,
                        .categorical = p.kind == SampleKind::categorical};
    return choose_tokens(kept, choice, stream);
}

Status run(const Sample& p, const Stream& stream, Workspace workspace) {
    const HeadPlan plan = plan_of(p);
    const HeadRoom room = take_room(plan, workspace);
    return each_chunk(p, plan, [&](const HeadRows& rows) { return draw_chunk(p, plan, room, rows, stream); });
}

}  // namespace

Op<Sample> sample_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cuda
