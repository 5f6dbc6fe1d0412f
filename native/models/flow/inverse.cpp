// A whole stack from noise to data.
#include <algorithm>
#include <cmath>

#include "models/flow/faults.h"
#include "models/flow/stage_inverse.h"
#include "noema/rng.h"

namespace noema {

namespace {

InversePlan plan_of(const FlowInversion& job, size_t l) {
    return job.range.plans.empty() ? InversePlan{} : job.range.plans[l];
}

/// Whether what is found is run forward again: sweeps stop by what they change, which is not yet what they leave.
bool is_looked_back_on(const FlowInversion& job, size_t l) {
    if (job.range.ancestral && static_cast<int64_t>(l) + 1 == job.range.from) return false;
    return job.range.check || plan_of(job, l).method == InverseMethod::jacobi;
}

/// The most that sweeps' residual may be. What is found is to the bit the inverse of some noise, this far from the one given: a thousandth of
/// the noise's own spread moves one scalar in some thousands over the edge of a token. Whatever the tolerance: at rest a sweep moves h by that
/// at most, and u by that over sigma, so a loose one may rest where another text is, which is an error and no answer. Bodies in bf16 may
/// answer the least move of h with another rounding, which moves u by a thousandth and more.
float most_residual(const FlowShape& s) {
    return s.precision == Precision::bf16 ? 3e-2f : 1e-3f;
}

/// What is known of a flow's inverse when the run is through.
struct Outcome {
    std::vector<int32_t> failures;  // what its searches counted
    std::vector<float> changes;     // [N,B] what the last sweep of a module changed, at its first position
    std::vector<double> state;      // [B,N,c] what it found, in text order
    std::vector<float> log_sum;     // [B,N,P] the codebook's log density there, of the flow nearest the data
};
using Outcomes = std::vector<Outcome>;

/// The first module that had not come to rest, if one had not.
Status report_restless(const FlowShape& s, const FlowInversion& job, const Outcomes& outcomes, FlowInverse& out,
                       size_t l) {
    const InversePlan plan = plan_of(job, l);
    for (const Module& m : modules_of(plan, s.N))
        if (m.count > 1) NOEMA_TRY(check_rest(s, l, {plan, m, outcomes[l].changes.data() + m.first * s.B}, out.fault));
    return {};
}

/// What is no number, or no token's, and what leads elsewhere.
Status report_lost(const FlowShape& s, const FlowInversion& job, const Outcomes& outcomes, FlowInverse& out, size_t l) {
    NOEMA_TRY(check_state(s, l, outcomes[l].state.data(), nullptr, out.fault));
    if (l == 0) NOEMA_TRY(check_latents(s, outcomes[l].state.data(), outcomes[l].log_sum.data(), out.fault));
    if (plan_of(job, l).method != InverseMethod::jacobi) return {};
    for (int64_t b = 0; b < static_cast<int64_t>(out.residuals[l].size()); ++b) {
        if (out.residuals[l][b] <= most_residual(s)) continue;
        out.fault = fault_at(s, l, b, 0, s.N - 1);
        return Status::error(Code::not_converged,
                             "flow %zu: what sweeps found for sequence %lld leads %g away from what it was to be the "
                             "inverse of, expected at most %g",
                             l, static_cast<long long>(b), out.residuals[l][b], most_residual(s));
    }
    return {};
}

/// The first search that failed, if one did.
Status report_failed(const FlowShape& s, const FlowInversion& job, const Outcomes& outcomes, FlowInverse& out,
                     size_t l) {
    const std::vector<int32_t>& failures = outcomes[l].failures;
    const bool by_scalar = s.config.flows[l].kind == FlowKind::mixture_cdf;
    const int64_t searches = static_cast<int64_t>(failures.size()) / s.rows();
    for (const Module& m : modules_of(plan_of(job, l), s.N)) {
        const int64_t rows = s.B * m.count;
        const int32_t* counts = failures.data() + m.first * s.B * searches;
        const int32_t* at = std::find_if(counts, counts + rows * searches, [](int32_t count) { return count != 0; });
        if (at == counts + rows * searches) continue;
        const int64_t row = by_scalar ? (at - counts) % rows : (at - counts) / searches;
        const int64_t n = m.first + row % m.count;
        out.fault = fault_at(s, l, row / m.count, n, n);
        return Status::error(Code::not_converged,
                             "flow %zu: %d scalars of sequence %lld, position %lld have no inverse in reach", l, *at,
                             static_cast<long long>(out.fault->sequence), static_cast<long long>(out.fault->first));
    }
    return {};
}

/// The host's part of an ancestral draw: what its components are chosen by.
struct Chances {
    std::vector<float> uniform;      // [B*N,c] of mixture_cdf
    std::vector<int32_t> positions;  // [N,P,B] of mixture_rosenblatt

    Chances(const FlowShape& s, const AncestralDraw& way) {
        if (s.config.flows.back().kind == FlowKind::mixture_cdf) {
            for (int64_t b = 0; b < s.B; ++b)
                for (int64_t i = 0; i < s.N * s.c(); ++i)
                    uniform.push_back(rng_uniform(way.seeds[b], RngStream::token, 0, static_cast<uint32_t>(i / s.c()),
                                                  static_cast<uint32_t>(i % s.c())));
            return;
        }
        for (int64_t i = 0; i < s.N * s.P() * s.B; ++i) positions.push_back(static_cast<int32_t>(i / s.B));
    }
};

/// One run's host memory.
struct InversionInput {
    FlowTokens tokens;
    std::optional<Chances> chances;
};

class Inverter {
 public:
    Inverter(const FlowShape& s, const FlowWeights& w, const FlowInversion& job, FlowInverse& out, Context& c)
        : s_(s), w_(w), job_(job), out_(out), c_(c) {}

    Status run(InversionInput& in, Outcomes& outcomes) {
        const View h = c_.arena->tensor(DType::f64, s_.rows(), s_.c());
        NOEMA_TRY(cast({.x = upload(job_.state), .y = h}, c_));
        View prefix;
        if (s_.m) {
            const View ids = c_.upload(view(in.tokens.prefix.data(), DType::i32, s_.B * s_.m * s_.P()));
            NOEMA_TRY(prefix_means(s_, ids, w_.mean, prefix, c_));
        }
        if (in.chances) draw_ = draw_by(*in.chances, *job_.range.ancestral);
        for (int64_t l = job_.range.from; l-- > job_.range.to;)
            NOEMA_TRY(step(static_cast<size_t>(l), prefix, h, outcomes[l]));
        return job_.range.to == 0 ? decode(h, outcomes[0]) : Status{};
    }

 private:
    StageDraw draw_by(Chances& chances, const AncestralDraw& way) const {
        StageDraw d{.way = way};
        if (!chances.uniform.empty()) {
            d.uniform = c_.upload(view(chances.uniform.data(), DType::f32, s_.rows(), s_.c()));
            return d;
        }
        d.seeds = c_.upload(view(const_cast<uint64_t*>(way.seeds), DType::i64, s_.B));
        d.positions = c_.upload(view(chances.positions.data(), DType::i32, s_.N, s_.P(), s_.B));
        return d;
    }

    View upload(const double* values) const {
        return c_.upload(view(const_cast<double*>(values), DType::f64, s_.rows(), s_.c()));
    }

    /// From text order to a flow's own.
    std::vector<uint8_t> in_order(const uint8_t* fixed, bool reverse) const {
        std::vector<uint8_t> out(fixed, fixed + s_.rows());
        for (int64_t b = 0; reverse && b < s_.B; ++b)
            std::reverse(out.begin() + b * s_.N, out.begin() + (b + 1) * s_.N);
        return out;
    }

    /// h^(l+1) -> h^(l), in place.
    Status step(size_t l, const View& prefix, const View& h, Outcome& outcome) {
        ArenaScope scope(*c_.arena);
        const bool reverse = s_.config.flows[l].reverse;
        const View u = c_.arena->tensor(DType::f64, s_.rows(), s_.c()), text = by_sequence(h, s_.B);
        const View found = c_.arena->tensor(DType::f64, s_.rows(), s_.c());
        const View failed = c_.arena->tensor(DType::i32, static_cast<int64_t>(outcome.failures.size()));
        const View sweeps = c_.arena->tensor(DType::i32, s_.B);
        const ChannelOrder undo =
            mixing(s_, l) == ChannelOrder::even_odd ? ChannelOrder::interleave : ChannelOrder::as_is;
        const bool lowest = static_cast<int64_t>(l) == job_.range.to && job_.range.fixed;
        NOEMA_TRY(c_.clear(failed));
        NOEMA_TRY(c_.clear(sweeps));
        NOEMA_TRY(reorder({.x = text, .y = by_sequence(u, s_.B), .channels = undo, .reverse = reverse}, c_));
        if (lowest)
            NOEMA_TRY(reorder(
                {.x = by_sequence(upload(job_.range.given), s_.B), .y = by_sequence(found, s_.B), .reverse = reverse},
                c_));
        std::vector<uint8_t> fixed;
        View fixed_there;
        if (lowest) {
            fixed = in_order(job_.range.fixed, reverse);
            fixed_there = c_.upload(view(fixed.data(), DType::u8, s_.B, s_.N));
        }
        const StageInverse::Task task{.prefix = prefix,
                                      .u = u,
                                      .h = found,
                                      .failed = failed,
                                      .sweeps = sweeps,
                                      .fixed = fixed_there,
                                      .changes = outcome.changes.data(),
                                      .fault = &out_.fault,
                                      .plan = plan_of(job_, l),
                                      .draw = draw_ && l + 1 == s_.config.flows.size() ? &*draw_ : nullptr,
                                      .grid = grid_of(s_.config, l)};
        NOEMA_TRY(invert(l, task));
        c_.fetch(sweeps, out_.sweeps[l].data());
        c_.fetch(failed, outcome.failures.data());
        NOEMA_TRY(reorder({.x = by_sequence(found, s_.B), .y = text, .reverse = reverse}, c_));
        c_.fetch(h, outcome.state.data());
        return {};
    }

    Status invert(size_t l, const StageInverse::Task& task) {
        StageInverse inverse(s_, w_, l, c_);
        NOEMA_TRY(inverse.run(task));
        if (!is_looked_back_on(job_, l)) return {};
        ArenaScope scope(*c_.arena);
        const View residual = c_.arena->tensor(DType::f32, s_.B);
        NOEMA_TRY(inverse.look_back(task, residual));
        c_.fetch(residual, out_.residuals[l].data());
        return {};
    }

    Status decode(const View& h, Outcome& outcome) {
        const View best = c_.arena->tensor(DType::i32, s_.tokens());
        const View confidence = c_.arena->tensor(DType::f32, s_.tokens());
        const View log_sum = c_.arena->tensor(DType::f32, s_.tokens());
        const View z = c_.arena->tensor(DType::f32, s_.tokens(), s_.d());
        NOEMA_TRY(cast({.x = as_shape(h, {s_.tokens(), s_.d()}), .y = z}, c_));
        NOEMA_TRY(codebook_decode({.z = z,
                                   .mean = w_.mean,
                                   .log_sigma = w_.log_sigma,
                                   .log_sum = log_sum,
                                   .best = best,
                                   .confidence = confidence},
                                  c_));
        c_.fetch(log_sum, outcome.log_sum.data());
        c_.fetch(best, out_.tokens.data());
        c_.fetch(confidence, out_.confidence.data());
        return {};
    }

    const FlowShape& s_;
    const FlowWeights& w_;
    const FlowInversion& job_;
    FlowInverse& out_;
    Context& c_;
    std::optional<StageDraw> draw_;  // of the flow nearest the noise
};

Status check_draw(const FlowShape& s, const FlowInversion& job) {
    const size_t L = s.config.flows.size();
    const FlowKind kind = s.config.flows.back().kind;
    const AncestralDraw& way = *job.range.ancestral;
    if (kind == FlowKind::affine)
        return Status::error(Code::unsupported, "flow %zu faces the noise and is affine: only mixtures are drawn from",
                             L - 1);
    if (job.range.from != static_cast<int64_t>(L) || !way.seeds)
        return Status::error(Code::invalid_argument, "an ancestral draw starts from base noise, with seeds");
    if (plan_of(job, L - 1).method != InverseMethod::sequential)
        return Status::error(Code::invalid_argument, "flow %zu is drawn from: its plan can only be sequential", L - 1);
    const bool plain = way.temperature == 1 && way.top_k == 0 && way.top_p == 1;
    if (kind == FlowKind::mixture_cdf && !plain)
        return Status::error(Code::unsupported,
                             "temperature, top_k and top_p are for the components of a mixture_rosenblatt flow; flow "
                             "%zu is mixture_cdf",
                             L - 1);
    return {};
}

Status check_job(const FlowShape& s, const FlowInversion& job, std::optional<FlowFault>& fault) {
    NOEMA_TRY(check_state(s, job.range.from - 1, job.state, nullptr, fault));
    if (job.range.fixed) NOEMA_TRY(check_state(s, job.range.to, job.range.given, job.range.fixed, fault));
    const size_t plans = job.range.plans.size(), L = s.config.flows.size();
    if (plans != 0 && plans != L) return Status::error(Code::invalid_argument, "%zu plans for %zu flows", plans, L);
    for (const InversePlan& p : job.range.plans)
        if (p.modules < 1 || p.sweeps < 0 || !(p.tolerance >= 0))
            return Status::error(Code::invalid_argument,
                                 "a plan of %lld modules, %lld sweeps, tolerance %g: expected at least 1, 0 and 0",
                                 static_cast<long long>(p.modules), static_cast<long long>(p.sweeps), p.tolerance);
    return job.range.ancestral ? check_draw(s, job) : Status{};
}

/// Modules of one flow that a recording may hold, each of some hundred kernels.
constexpr size_t kMostRecordedModules = 64;

/// Whether the device does all of it by itself, in no more work than is worth keeping. The sequential inverse in one op keeps pace with its
/// host, so that it can be cancelled on its way; a recording of it could not.
bool is_recordable(const FlowShape& s, const FlowInversion& job, const Backend& backend) {
    if (job.range.ancestral)
        return false;  // its settings are those of kernels: a recording for each would seldom be used again
    for (int64_t l = job.range.to; l < job.range.from; ++l) {
        const InversePlan plan = plan_of(job, l);
        const bool fused = plan.method == InverseMethod::sequential && backend.ops.sequential_inverse.run;
        if (fused || modules_of(plan, s.N).size() > kMostRecordedModules) return false;
    }
    return backend.begin_repeat != nullptr;
}

Recipe recipe_of(const FlowShape& s, const FlowInversion& job) {
    const bool is_fixed = job.range.fixed != nullptr;
    Recipe recipe(job.identity, s.B, s.m, s.N, job.range.from, job.range.to, is_fixed, job.range.check);
    for (int64_t l = job.range.to; l < job.range.from; ++l) {
        const InversePlan p = plan_of(job, l);
        for (const int64_t value : {p.modules, p.sweeps}) recipe.add(value);
        recipe.add(p.method);
        recipe.add(p.tolerance);
        recipe.add(p.from_zeros);
    }
    return recipe;
}

/// Sweeps counted by the op, and those of the modules that need no count: one each.
void add_single_sweeps(const FlowShape& s, const FlowInversion& job, size_t l, std::vector<int32_t>& sweeps) {
    const std::vector<Module> modules = modules_of(plan_of(job, l), s.N);
    const auto single = std::count_if(modules.begin(), modules.end(), [](const Module& m) { return m.count == 1; });
    for (int32_t& count : sweeps) count += static_cast<int32_t>(single);
}

}  // namespace

Status flow_invert(Engine& engine, const FlowShape& s, const FlowWeights& w, const FlowInversion& job, FlowInverse& out,
                   const std::atomic<bool>* cancelled) {
    out.fault.reset();
    NOEMA_TRY(check_job(s, job, out.fault));
    InversionInput in{FlowTokens(job.batch), {}};
    if (job.range.ancestral) in.chances.emplace(s, *job.range.ancestral);
    Outcomes outcomes(s.config.flows.size());
    out.sweeps.assign(outcomes.size(), {});
    out.residuals.assign(outcomes.size(), {});
    for (int64_t l = job.range.to; l < job.range.from; ++l) {
        outcomes[l].state.resize(s.rows() * s.c());
        if (is_looked_back_on(job, l)) out.residuals[l].resize(s.B);
        outcomes[l].failures.resize(s.rows() * coupling_of(s.config, w, l).searches());
        outcomes[l].changes.resize(s.rows());
        out.sweeps[l].resize(s.B);
    }
    outcomes[0].log_sum.resize(s.tokens());
    out.tokens.resize(job.range.to == 0 ? s.tokens() : 0);
    out.confidence.resize(out.tokens.size());
    const auto body = [&](Context& c) { return Inverter(s, w, job, out, c).run(in, outcomes); };
    NOEMA_TRY(is_recordable(s, job, engine.backend()) ? engine.execute(recipe_of(s, job), body, cancelled)
                                                      : engine.execute(body, cancelled));
    // A device that was stopped on its way has gone on with what it had.
    if (cancelled && cancelled->load()) return Status::error(Code::aborted, "the inversion was cancelled");
    for (int64_t l = job.range.from; l-- > job.range.to;) NOEMA_TRY(report_restless(s, job, outcomes, out, l));
    for (int64_t l = job.range.from; l-- > job.range.to;) {
        NOEMA_TRY(report_failed(s, job, outcomes, out, l));
        NOEMA_TRY(report_lost(s, job, outcomes, out, l));
        add_single_sweeps(s, job, l, out.sweeps[l]);
    }
    out.state = std::move(outcomes[job.range.to].state);
    return {};
}

}  // namespace noema
