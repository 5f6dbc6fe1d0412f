#include "models/flow/stage_inverse.h"

#include <algorithm>

#include "models/flow/faults.h"

namespace noema {

std::vector<Module> modules_of(const InversePlan& plan, int64_t N) {
    const int64_t count = plan.method == InverseMethod::sequential ? N : std::min(plan.modules, N);
    std::vector<Module> modules;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t first = N * i / count;
        modules.push_back({first, N * (i + 1) / count - first});
    }
    return modules;
}

int64_t most_sweeps(const InversePlan& plan, const Module& m) {
    return plan.sweeps ? std::min(plan.sweeps, m.count) : m.count;
}

Status check_rest(const FlowShape& s, size_t flow, const Rest& r, std::optional<FlowFault>& fault) {
    const int64_t most = most_sweeps(r.plan, r.module), b = std::max_element(r.changes, r.changes + s.B) - r.changes;
    if (r.changes[b] <= r.plan.tolerance) return {};
    if (most == r.module.count)
        return {};  // position by position all of it has come right, or is no number: check_state
    fault = fault_at(s, flow, b, r.module.first, r.module.first + r.module.count - 1);
    return Status::error(
        Code::not_converged,
        "flow %zu: positions %lld to %lld of sequence %lld still change by %g after %lld sweeps, tolerance %g", flow,
        static_cast<long long>(fault->first), static_cast<long long>(fault->last), static_cast<long long>(b),
        r.changes[b], static_cast<long long>(most), r.plan.tolerance);
}

StageInverse::StageInverse(const FlowShape& s, const FlowWeights& w, size_t flow, Context& c)
    : s_(s), w_(w.flows[flow]), coupling_(coupling_of(s.config, w, flow)), flow_(flow), c_(c) {
    const int64_t H = s.config.num_heads, D = s.C() / H;
    for (size_t i = 0; i < w_.blocks.size(); ++i)
        caches_.push_back(
            {c.arena->tensor(DType::f32, s.B, s.S(), H, D), c.arena->tensor(DType::f32, s.B, s.S(), H, D)});
}

/// Positions first .. first + count of every sequence: [B,count,c] of [B*N,c].
View StageInverse::part(const View& rows, int64_t first, int64_t count) const {
    const View all = by_sequence(rows, s_.B);
    View v = moved(all, first * all.stride[1]);
    v.shape[1] = count;
    return v;
}

Status StageInverse::read_prefix(const View& prefix) {
    ArenaScope scope(*c_.arena);
    const View body = tensor(s_.B * s_.m, s_.C());
    NOEMA_TRY(linear(w_.context, prefix, body, {}, Precision::f32, c_));
    return advance(0, body, s_.m);
}

Status StageInverse::advance(int64_t position, const View& x, int64_t T) {
    for (size_t i = 0; i < w_.blocks.size(); ++i)
        NOEMA_TRY(block_forward_cached(s_.block(T), w_.blocks[i], caches_[i], position, x, c_));
    return {};
}

/// before [B*count,c]: what the body reads at the module's positions, h one position late.
Status StageInverse::shift(const Task& t, const Module& m, const View& before) {
    const View by_module = by_sequence(before, s_.B);
    if (m.first == 0) return reorder({.x = part(t.h, 0, m.count), .first = w_.start, .y = by_module}, c_);
    return reorder({.x = part(t.h, m.first - 1, m.count), .y = by_module}, c_);
}

/// x [B*count,C]: the same in the body's width.
Status StageInverse::lift(const Task& t, const Module& m, const View& x) {
    ArenaScope scope(*c_.arena);
    const View before = tensor(s_.B * m.count, s_.c());
    NOEMA_TRY(shift(t, m, before));
    return exact_linear(w_.input, before, x, c_);
}

/// The module's positions of h as the sweeps see them: [B,count*c].
View StageInverse::state_of(const Task& t, const Module& m) const {
    View state = part(t.h, m.first, m.count);
    state.rank = 2, state.shape[1] = m.count * s_.c(), state.stride[1] = 1;
    return state;
}

/// What a change is before the first sweep: infinite.
Status StageInverse::anything(const View& change) {
    return reduce({.x = as_shape(tensor(s_.B, 1), {s_.B, 0}), .y = change, .kind = ReduceKind::min}, c_);  // of nothing
}

/// The module's positions of h = next [B*count,c], but what is fixed.
Status StageInverse::put(const Task& t, const Module& m, const View& next) {
    if (!t.fixed) return reorder({.x = by_sequence(next, s_.B), .y = part(t.h, m.first, m.count)}, c_);
    ArenaScope scope(*c_.arena);
    const View change = as_shape(tensor(s_.B, 1), {s_.B}), uncounted = c_.arena->tensor(DType::i32, s_.B);
    NOEMA_TRY(anything(change));
    NOEMA_TRY(c_.clear(uncounted));
    return sweep({.next = as_shape(next, {s_.B, m.count * s_.c()}),
                  .state = state_of(t, m),
                  .change = change,
                  .sweeps = uncounted,
                  .fixed = columns_of(t.fixed, m.first, m.count)},
                 c_);
}

/// x [B*count,C]: what the body says of the module's positions.
Status StageInverse::read(const Task& t, const Module& m, const View& x) {
    NOEMA_TRY(lift(t, m, x));
    NOEMA_TRY(advance(s_.m + m.first, x, m.count));
    return rms_norm({.x = x, .weight = w_.norm, .y = x, .epsilon = s_.config.rms_norm_eps}, c_);
}

/// u of the module's positions.
Status StageInverse::map(const Task& t, const Module& m) {
    ArenaScope scope(*c_.arena);
    const View h = wide(s_.B * m.count, s_.c()), u = wide(s_.B * m.count, s_.c());
    NOEMA_TRY(reorder({.x = part(t.h, m.first, m.count), .y = by_sequence(h, s_.B)}, c_));
    if (can_fuse_sweeps()) {
        NOEMA_TRY(sweep_fused(t, m, u, h));
    } else {
        const View x = tensor(s_.B * m.count, s_.C());
        NOEMA_TRY(read(t, m, x));
        NOEMA_TRY(uncouple(coupling_, x, {.u = u, .h = h, .grid = t.grid, .forward = true}, c_));
    }
    return reorder({.x = by_sequence(u, s_.B), .y = part(t.u, m.first, m.count)}, c_);
}

/// next [B*count,c]: the module's positions, given what the body says of h as it stands.
Status StageInverse::propose(const Task& t, const Module& m, const View& next) {
    ArenaScope scope(*c_.arena);
    const View u = wide(s_.B * m.count, s_.c());
    NOEMA_TRY(reorder({.x = part(t.u, m.first, m.count), .y = by_sequence(u, s_.B)}, c_));
    if (!t.draw && can_fuse_sweeps()) return sweep_fused(t, m, u, next);
    const View x = tensor(s_.B * m.count, s_.C());
    NOEMA_TRY(read(t, m, x));
    if (t.draw) return draw(t, m, x, next);
    const int64_t searches = s_.B * coupling_.searches();
    const View failed = rows_of(t.failed, m.first * searches, m.count * searches);
    return uncouple(coupling_, x, {.u = u, .h = next, .failed = failed, .grid = t.grid}, c_);
}

/// next [B,c]: the module's one position, drawn from what the body says of it.
Status StageInverse::draw(const Task& t, const Module& m, const View& x, const View& next) {
    ArenaScope scope(*c_.arena);
    CouplingDraw d{.normal = tensor(s_.B, s_.c()), .seeds = t.draw->seeds, .way = t.draw->way};
    NOEMA_TRY(reorder({.x = part(t.u, m.first, 1), .y = by_sequence(d.normal, s_.B)}, c_));
    if (coupling_.stage.kind == FlowKind::mixture_cdf) {
        d.uniform = tensor(s_.B, s_.c());
        NOEMA_TRY(reorder({.x = part(t.draw->uniform, m.first, 1), .y = by_sequence(d.uniform, s_.B)}, c_));
    } else {
        d.positions = as_shape(rows_of(t.draw->positions, m.first, 1), {s_.P(), s_.B});
    }
    return draw_from(coupling_, x, d, next, c_);
}

/// The first guess of what is to be found: noise, or zeros.
Status StageInverse::start(const Task& t, const Module& m) {
    ArenaScope scope(*c_.arena);
    const View guess = wide(s_.B * m.count, s_.c());
    if (t.plan.from_zeros)
        NOEMA_TRY(c_.clear(guess));
    else
        NOEMA_TRY(reorder({.x = part(t.u, m.first, m.count), .y = by_sequence(guess, s_.B)}, c_));
    return put(t, m, guess);
}

Status StageInverse::sweep_until_rest(const Task& t, const Module& m) {
    ArenaScope scope(*c_.arena);
    const View next = wide(s_.B * m.count, s_.c()), change = as_shape(tensor(s_.B, 1), {s_.B});
    NOEMA_TRY(start(t, m));
    NOEMA_TRY(anything(change));
    const Sweep to_next{.next = as_shape(next, {s_.B, m.count * s_.c()}),
                        .state = state_of(t, m),
                        .change = change,
                        .sweeps = t.sweeps,
                        .fixed = t.fixed ? columns_of(t.fixed, m.first, m.count) : View{},
                        .tolerance = t.plan.tolerance};
    NOEMA_TRY(
        c_.repeat({.change = change, .tolerance = t.plan.tolerance, .most = most_sweeps(t.plan, m)}, [&]() -> Status {
            NOEMA_TRY(propose(t, m, next));
            return sweep(to_next, c_);
        }));
    float* changes = t.changes + m.first * s_.B;
    c_.fetch(change, changes);
    // A device's values are there when the run is through.
    return c_.transfers || c_.arena->measuring() ? Status{} : check_rest(s_, flow_, {t.plan, m, changes}, *t.fault);
}

Status StageInverse::solve(const Task& t, const Module& m) {
    ArenaScope scope(*c_.arena);
    if (m.count == 1) {
        const View next = wide(s_.B, s_.c());
        NOEMA_TRY(propose(t, m, next));
        return put(t, m, next);
    }
    NOEMA_TRY(sweep_until_rest(t, m));
    if (m.first + m.count == s_.N) return {};
    // The caches hold what the last sweep began with, which depends on how long the other sequences moved.
    if (can_fuse_sweeps()) return propose(t, m, wide(s_.B * m.count, s_.c()));
    const View x = tensor(s_.B * m.count, s_.C());
    NOEMA_TRY(lift(t, m, x));
    return advance(s_.m + m.first, x, m.count);
}

Status StageInverse::run(const Task& t) {
    if (s_.m) NOEMA_TRY(read_prefix(t.prefix));
    if (t.forward) return map(t, {0, s_.N});  // all is known: what each position sees needs no waiting for
    if (t.plan.method == InverseMethod::sequential && !t.draw && can_fuse()) return run_fused(t);
    for (const Module& m : modules_of(t.plan, s_.N)) {
        if (c_.stream.is_cancelled()) return Status::error(Code::aborted, "the inversion was cancelled");
        NOEMA_TRY(solve(t, m));
    }
    return {};
}

Status StageInverse::look_back(const Task& t, const View& change) {
    ArenaScope scope(*c_.arena);
    const View again = wide(s_.rows(), s_.c()), uncounted = c_.arena->tensor(DType::i32, s_.B);
    Task forward = t;
    forward.u = again;
    forward.failed = c_.arena->tensor(DType::i32, t.failed.size());
    forward.fixed = {};
    forward.grid = 0;
    forward.forward = true;
    NOEMA_TRY(run(forward));
    NOEMA_TRY(anything(change));
    NOEMA_TRY(c_.clear(uncounted));
    const View whole = as_shape(again, {s_.B, s_.N * s_.c()});
    return sweep({.next = whole,
                  .state = as_shape(t.u, {s_.B, s_.N * s_.c()}),
                  .change = change,
                  .sweeps = uncounted,
                  .fixed = t.fixed},
                 c_);
}

}  // namespace noema
