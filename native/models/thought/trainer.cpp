#include <cmath>

#include "models/thought/weights.h"

namespace noema {

Status ThoughtTrainer::create(Engine& engine, std::shared_ptr<ThoughtModel> model, bool keep_average,
                              std::unique_ptr<ThoughtTrainer>& out) {
    std::unique_ptr<ThoughtTrainer> t(new ThoughtTrainer);
    std::vector<float> values(model->parameters());
    NOEMA_TRY(model->copy_to(engine, values.data()));
    NOEMA_TRY(t->allocate(engine, thought_tensors(model->config()), keep_average, values.data()));
    t->model_ = std::move(model);
    out = std::move(t);
    return {};
}

Status ThoughtTrainer::source(bool average, ThoughtWeights& out) const {
    const TrainerBuffer buffer = average ? TrainerBuffer::average : TrainerBuffer::parameter;
    if (!has(buffer)) return Status::error(Code::invalid_argument, "the trainer keeps no average");
    out = bind_weights(config(), [&](const std::string& name) { return Weight{view_of(buffer, name)}; });
    return {};
}

namespace {

/// The lesson's own pass: at a z that is held constant.
Status learn(const ThoughtNetwork& network, const ThoughtGradients& gradients, const ThoughtLesson& lesson,
             float* losses, Context& c) {
    const ThoughtBatch& b = lesson.batch;
    const BlockShape s = network.block(b.B, b.T);
    const View ids = c.upload(view(const_cast<int32_t*>(b.ids), DType::i32, s.rows()));
    const View z = c.upload(view(const_cast<float*>(lesson.z), DType::f32, b.B, network.config.latent_size()));
    const View loss = c.arena->tensor(DType::f32, s.rows()), d_hidden = c.arena->tensor(DType::f32, s.rows(), s.C);
    const ThoughtScores scores{.targets = c.upload(view(const_cast<int32_t*>(b.targets), DType::i32, s.rows())),
                               .row_weights = c.upload(view(const_cast<float*>(lesson.weights), DType::f32, s.rows())),
                               .losses = loss};
    ThoughtActivations pass;
    NOEMA_TRY(lay_ground(network, s, ids, Keep::everything, pass, c));
    NOEMA_TRY(forward_from_ground(network, s, z, pass, c));
    NOEMA_TRY(score(network, s, pass, scores, d_hidden, gradients.head, c));
    c.fetch(loss, losses);
    return thought_backward(network, s, pass, {.d_hidden = d_hidden, .gradients = &gradients}, c);
}

}  // namespace

Status ThoughtTrainer::accumulate(Engine& engine, const ThoughtLesson& lesson, float* losses, Posterior& posterior,
                                  const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check_batch(config(), lesson.batch));
    if (!lesson.batch.targets || !lesson.weights)
        return Status::error(Code::invalid_argument, "training needs targets and their weights");
    ThoughtWeights weights;
    NOEMA_TRY(source(false, weights));
    const ThoughtNetwork network{config(), weights, model_->precision(), identity()};
    const ThoughtGradients gradients =
        bind_gradients(config(), [&](const std::string& name) { return view_of(TrainerBuffer::gradient, name); });
    ThoughtLesson now = lesson;
    if (!lesson.z) {
        const FitTask task{.batch = lesson.batch, .start = lesson.start, .options = lesson.fit};
        NOEMA_TRY(thought_fit(engine, network, task, lesson.trajectory ? &gradients : nullptr, posterior, cancelled));
        now.z = posterior.z.data();
    }
    NOEMA_TRY(engine.execute(
        Recipe(identity(), lesson.batch.B, lesson.batch.T),
        [&](Context& c) { return learn(network, gradients, now, losses, c); }, cancelled));
    for (int64_t r = 0; r < lesson.batch.B * lesson.batch.T; ++r)
        if (!std::isfinite(losses[r]))
            return Status::error(Code::non_finite, "the training loss is %g at a position", losses[r]);
    return {};
}

Status ThoughtTrainer::losses(Engine& engine, const ThoughtBatch& batch, const float* z, bool average, float* losses,
                              const std::atomic<bool>* cancelled) {
    ThoughtWeights weights;
    NOEMA_TRY(source(average, weights));
    return thought_losses(engine, {config(), weights, model_->precision(), identity()}, batch, z, losses, cancelled);
}

Status ThoughtTrainer::fit(Engine& engine, const FitTask& task, bool average, Posterior& out,
                           const std::atomic<bool>* cancelled) {
    ThoughtWeights weights;
    NOEMA_TRY(source(average, weights));
    FitTask once = task;
    once.options.repeated = false;  // recordings are named by the parameters, not by their average
    return thought_fit(engine, {config(), weights, model_->precision(), identity()}, once, nullptr, out, cancelled);
}

Status ThoughtTrainer::bound(Engine& engine, const BoundTask& task, bool average, Bound& out,
                             const std::atomic<bool>* cancelled) {
    ThoughtWeights weights;
    NOEMA_TRY(source(average, weights));
    return thought_bound(engine, {config(), weights, model_->precision(), identity()}, task, out, cancelled);
}

Status ThoughtTrainer::publish(Engine& engine, bool average) {
    std::vector<float> values;
    NOEMA_TRY(copy_to(engine, average ? TrainerBuffer::average : TrainerBuffer::parameter, values));
    return model_->replace(engine, values.data());
}

}  // namespace noema
