// Bounds on -log p(x) from fresh draws of a fitted posterior (checkpoints.md, Bounds).
#include <algorithm>
#include <cmath>

#include "models/thought/weights.h"

namespace noema {

namespace {

// Seeded draws of bounds come from the middle of a sequence's draws: those of its fit count from 0.
constexpr int64_t kFirstDraw = int64_t{1} << 31;

Status check_task(const ThoughtConfig& config, const BoundTask& task) {
    NOEMA_TRY(check_batch(config, task.batch));
    const auto refuse = [](const char* what) { return Status::error(Code::invalid_argument, "bound: %s", what); };
    if (task.K < 1 || task.K > (1 << 20)) return refuse("expected 1 to 1048576 draws");
    if (!task.batch.targets) return refuse("targets say what is scored");
    if (!task.mean || !task.log_variance) return refuse("mean and log-variance are a posterior");
    return task.seeds || task.draws ? Status{} : refuse("seeds or draws must be given");
}

Status draw_and_score(const ThoughtNetwork& network, const BoundTask& task, Bound& out, Context& c) {
    const ThoughtBatch& b = task.batch;
    const BlockShape s = network.block(b.B, b.T);
    const int64_t n = network.config.latent_size();
    const auto given = [&](const float* values, int64_t rows) {
        return c.upload(view(const_cast<float*>(values), DType::f32, rows, n));
    };
    const auto tensor = [&](auto... shape) { return c.arena->tensor(DType::f32, shape...); };
    const auto row = [](const View& m, int64_t k) { return as_shape(rows_of(m, k, 1), {m.shape[1]}); };
    const View mean = given(task.mean, b.B), log_variance = given(task.log_variance, b.B);
    const View draws = task.draws ? given(task.draws, task.K * b.B) : tensor(b.B, n);
    View seeds;
    if (!task.draws) seeds = c.upload(view(const_cast<uint64_t*>(task.seeds), DType::i64, b.B));
    const View targets = c.upload(view(const_cast<int32_t*>(b.targets), DType::i32, s.rows()));
    const View ids = c.upload(view(const_cast<int32_t*>(b.ids), DType::i32, s.rows()));
    const View z = tensor(b.B, n), losses = tensor(s.rows()), kl = tensor(b.B);
    const View ce = tensor(task.K, b.B), log_ratio = tensor(task.K, b.B);

    ThoughtActivations pass;
    NOEMA_TRY(lay_ground(network, s, ids, Keep::ground, pass, c));
    for (int64_t k = 0; k < task.K; ++k) {
        NOEMA_TRY(posterior_update({.mean = mean,
                                    .log_variance = log_variance,
                                    .next_eps = task.draws ? rows_of(draws, k * b.B, b.B) : draws,
                                    .seeds = seeds,
                                    .z = z,
                                    .kl = kl,
                                    .log_ratio = row(log_ratio, k),
                                    .draw = kFirstDraw + k},
                                   c));
        ArenaScope scope(*c.arena);
        NOEMA_TRY(forward_from_ground(network, s, z, pass, c));
        NOEMA_TRY(score(network, s, pass, {.targets = targets, .losses = losses, .sums = row(ce, k)}, {}, {}, c));
    }
    c.fetch(ce, out.cross_entropy.data());
    c.fetch(log_ratio, out.log_weight.data());
    c.fetch(kl, out.kl.data());
    return {};
}

/// From cross-entropies and log p(z) - log q(z), K to a sequence.
void conclude(int64_t K, int64_t B, Bound& out) {
    for (size_t i = 0; i < out.log_weight.size(); ++i) out.log_weight[i] -= out.cross_entropy[i];
    for (int64_t b = 0; b < B; ++b) {
        double ce = 0, log_w = 0, most = -INFINITY, weights = 0;
        for (int64_t k = 0; k < K; ++k) {
            ce += out.cross_entropy[k * B + b];
            log_w += out.log_weight[k * B + b];
            most = std::max<double>(most, out.log_weight[k * B + b]);
        }
        for (int64_t k = 0; k < K; ++k) weights += std::exp(out.log_weight[k * B + b] - most);
        const auto count = static_cast<double>(K);
        out.nelbo[b] = ce / count + out.kl[b];
        out.nelbo_sampled[b] = -log_w / count;
        out.iwae[b] = -(most + std::log(weights / count));
    }
}

}  // namespace

Status thought_bound(Engine& engine, const ThoughtNetwork& network, const BoundTask& task, Bound& out,
                     const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check_task(network.config, task));
    const int64_t B = task.batch.B;
    out.cross_entropy.resize(task.K * B);
    out.log_weight.resize(task.K * B);
    out.kl.resize(B);
    for (std::vector<double>* v : {&out.nelbo, &out.nelbo_sampled, &out.iwae}) v->resize(B);
    NOEMA_TRY(engine.execute([&](Context& c) { return draw_and_score(network, task, out, c); }, cancelled));
    conclude(task.K, B, out);
    for (int64_t b = 0; b < B; ++b)
        if (!std::isfinite(out.nelbo[b]))
            return Status::error(Code::non_finite, "the bound of sequence %lld is %g", static_cast<long long>(b),
                                 out.nelbo[b]);
    return {};
}

}  // namespace noema
