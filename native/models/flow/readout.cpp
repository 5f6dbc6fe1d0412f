// Readouts: what a small network makes of one position of a state, for states above the data's mean nothing to the codebook
// (tarflowlm.md section 8). For token p of a position, hidden_p = gelu(W_p h + b_p), logits_p = V hidden_p.
#include <cmath>

#include "models/flow/coupling.h"
#include "models/flow/faults.h"

namespace noema {

namespace {

/// What one readout computes of positions [R,c].
class Readout {
 public:
    Readout(const FlowConfig& config, const StageWeights& w, Precision precision, int64_t R, Context& c)
        : w_(w), precision_(precision), c_(c), tokens_(R * config.patch_size) {
        const int64_t width = w.readout.weight.view.shape[0];
        sums_ = c.arena->tensor(DType::f32, R, width);
        hidden_ = c.arena->tensor(DType::f32, R, width);
    }

    Status forward(const View& h) const {
        NOEMA_TRY(exact_linear(w_.readout, h, sums_, c_));
        return gelu({.x = sums_, .y = hidden_}, c_);
    }

    Status likeliest(const RowStatsOutputs& out) const {
        return row_stats(
            {.hidden = by_token(hidden_), .weight = w_.readout_output, .out = out, .precision = precision_}, c_);
    }

    /// loss [tokens]; with gradients, those of sum row_weight * loss are added.
    Status losses(const View& h, const View& targets, const View& row_weight, const View& loss,
                  const StageGradients* gradients) const {
        CrossEntropy p{.hidden = by_token(hidden_),
                       .weight = w_.readout_output,
                       .targets = targets,
                       .loss = loss,
                       .precision = precision_};
        if (!gradients) return cross_entropy(p, c_);
        const View d_hidden = c_.arena->tensor(DType::f32, hidden_.shape[0], hidden_.shape[1]);
        p.row_weight = row_weight;
        p.d_hidden = by_token(d_hidden);
        p.d_weight = gradients->readout_output;
        NOEMA_TRY(cross_entropy(p, c_));
        NOEMA_TRY(gelu_backward({.x = sums_, .d_y = d_hidden, .d_x = d_hidden}, c_));
        return exact_linear_backward(h, d_hidden, gradients->readout, c_);
    }

 private:
    View by_token(const View& rows) const { return as_shape(rows, {tokens_, rows.size() / tokens_}); }

    const StageWeights& w_;
    const Precision precision_;
    Context& c_;
    const int64_t tokens_;
    View sums_, hidden_;  // [R, P * Mr]
};

}  // namespace

Status flow_read(Engine& engine, const FlowConfig& config, const FlowWeights& w, int64_t level, const View& state,
                 Precision precision, FlowReading& out, const std::atomic<bool>* cancelled) {
    const int64_t L = static_cast<int64_t>(config.flows.size()), R = state.shape[0], tokens = R * config.patch_size;
    if (level < 0 || level > L)
        return Status::error(Code::invalid_argument, "level %lld: expected 0 to %lld", static_cast<long long>(level),
                             static_cast<long long>(L));
    if (level > 0 && !config.flows[level - 1].readout_hidden)
        return Status::error(Code::unsupported, "the state at level %lld has no readout",
                             static_cast<long long>(level));
    out.fault.reset();
    out.tokens.resize(tokens);
    out.confidence.resize(tokens);
    std::vector<float> lse(tokens);
    NOEMA_TRY(engine.execute(
        [&](Context& c) {
            const View h = c.arena->tensor(DType::f32, R, config.channels());
            const View best = c.arena->tensor(DType::i32, tokens), sure = c.arena->tensor(DType::f32, tokens);
            const View sum = c.arena->tensor(DType::f32, tokens);
            NOEMA_TRY(cast({.x = c.upload(state), .y = h}, c));
            if (level == 0) {
                NOEMA_TRY(codebook_decode({.z = as_shape(h, {tokens, config.latent_size}),
                                           .mean = w.mean,
                                           .log_sigma = w.log_sigma,
                                           .log_sum = sum,
                                           .best = best,
                                           .confidence = sure},
                                          c));
            } else {
                const Readout readout(config, w.flows[level - 1], precision, R, c);
                NOEMA_TRY(readout.forward(h));
                NOEMA_TRY(readout.likeliest({.argmax = best, .max_logit = sure, .lse = sum}));
            }
            c.fetch(sum, lse.data());
            c.fetch(best, out.tokens.data());
            c.fetch(sure, out.confidence.data());
            return Status{};
        },
        cancelled));
    for (int64_t i = 0; i < tokens; ++i) {
        if (level > 0) out.confidence[i] = std::exp(out.confidence[i] - lse[i]);
        if (std::isfinite(out.confidence[i]) && (level > 0 || lse[i] >= kLeastLogDensity)) continue;
        const int64_t position = i / config.patch_size;
        out.fault = FlowFault{level - 1, 0, position, position};
        return Status::error(Code::non_finite, "the state at level %lld reads as no token at position %lld",
                             static_cast<long long>(level), static_cast<long long>(position));
    }
    return {};
}

Status flow_readings(Engine& engine, const FlowShape& s, const FlowWeights& w, const FlowGradients* gradients,
                     const FlowReadingTask& task, FlowReadings& out, const std::atomic<bool>* cancelled) {
    FlowTokens text(task.batch);
    const size_t L = w.flows.size();
    out.losses.assign(L, {});
    out.tokens.assign(L, {});
    return engine.execute(
        [&](Context& c) {
            const View targets = c.upload(view(text.suffix.data(), DType::i32, s.tokens()));
            View row_weight;
            if (gradients) row_weight = c.upload(view(const_cast<float*>(task.weights), DType::f32, s.tokens()));
            for (size_t l = 0; l < L; ++l) {
                if (!s.config.flows[l].readout_hidden) continue;
                ArenaScope scope(*c.arena);
                const View h =
                    c.upload(view(const_cast<float*>(task.states[l + 1].data()), DType::f32, s.rows(), s.c()));
                const Readout readout(s.config, w.flows[l], s.precision, s.rows(), c);
                const View loss = c.arena->tensor(DType::f32, s.tokens());
                NOEMA_TRY(readout.forward(h));
                NOEMA_TRY(readout.losses(h, targets, row_weight, loss, gradients ? &gradients->flows[l] : nullptr));
                out.losses[l].resize(s.tokens());
                c.fetch(loss, out.losses[l].data());
                if (gradients) continue;
                const View best = c.arena->tensor(DType::i32, s.tokens());
                NOEMA_TRY(readout.likeliest({.argmax = best}));
                out.tokens[l].resize(s.tokens());
                c.fetch(best, out.tokens[l].data());
            }
            return Status{};
        },
        cancelled);
}

}  // namespace noema
