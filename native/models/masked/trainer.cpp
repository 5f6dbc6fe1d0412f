#include <cmath>

#include "models/batch_checks.h"
#include "models/masked/weights.h"

namespace noema {

Status MaskedTrainer::create(Engine& engine, std::shared_ptr<MaskedModel> model, bool keep_average,
                             std::unique_ptr<MaskedTrainer>& out) {
    std::unique_ptr<MaskedTrainer> t(new MaskedTrainer);
    std::vector<float> values(model->parameters());
    NOEMA_TRY(model->copy_to(engine, values.data()));
    NOEMA_TRY(t->allocate(engine, masked_tensors(model->config()), keep_average, values.data()));
    t->model_ = std::move(model);
    out = std::move(t);
    return {};
}

MaskedWeights MaskedTrainer::weights(TrainerBuffer buffer) const {
    return bind_weights(model_->config(), [&](const std::string& name) { return Weight{view_of(buffer, name)}; });
}

Status MaskedTrainer::accumulate(Engine& engine, const MaskedBatch& batch, const MaskedObjective& objective,
                                 double& loss_sum, const std::atomic<bool>* cancelled) {
    const MaskedConfig& config = model_->config();
    const int64_t R = batch.B * batch.T;
    NOEMA_TRY(check_batch(config, batch));
    NOEMA_TRY(check_targets(objective.targets, R, config.vocab_size));
    const MaskedWeights weights = this->weights(TrainerBuffer::parameter);
    const MaskedGradients gradients =
        bind_gradients(config, [&](const std::string& name) { return view_of(TrainerBuffer::gradient, name); });
    NOEMA_TRY(engine.execute(
        Recipe(identity(), batch.B, batch.T, batch.key_start != nullptr, batch.key_end != nullptr,
               objective.excluded_id),
        [&](Context& c) {
            return masked_gradients(config, weights, gradients, batch, objective, model_->precision(), c);
        },
        cancelled));
    loss_sum = 0;
    for (int64_t r = 0; r < R; ++r) loss_sum += static_cast<double>(objective.row_weights[r]) * objective.losses[r];
    if (!std::isfinite(loss_sum)) return Status::error(Code::non_finite, "the training loss is %g", loss_sum);
    return {};
}

Status MaskedTrainer::accumulate_pairs(Engine& engine, const MaskedBatch& batch, const MaskedPairs& pairs,
                                       PairResult& result, const std::atomic<bool>* cancelled) {
    const MaskedConfig& config = model_->config();
    NOEMA_TRY(check_batch(config, batch));
    for (const int32_t* targets : {pairs.winners, pairs.losers})
        NOEMA_TRY(check_targets(targets, batch.B * batch.T, config.vocab_size));
    for (int64_t b = 0; b < batch.B; ++b)
        for (const float denominator : {pairs.winner_denominators[b], pairs.loser_denominators[b]})
            if (!(denominator > 0 && std::isfinite(denominator)))
                return Status::error(Code::invalid_argument, "pairs: sequence %lld is divided by %g, expected above 0",
                                     static_cast<long long>(b), denominator);
    const MaskedWeights weights = this->weights(TrainerBuffer::parameter);
    const MaskedGradients gradients =
        bind_gradients(config, [&](const std::string& name) { return view_of(TrainerBuffer::gradient, name); });
    const auto body = [&](Context& c) {
        return masked_pair_gradients(config, weights, gradients, batch, pairs, result, model_->precision(), c);
    };
    NOEMA_TRY(engine.execute(body, cancelled));
    if (!std::isfinite(result.loss)) return Status::error(Code::non_finite, "the training loss is %g", result.loss);
    return {};
}

Status MaskedTrainer::losses(Engine& engine, const MaskedBatch& batch, const int32_t* targets, int64_t excluded_id,
                             bool average, float* losses, const std::atomic<bool>* cancelled) {
    const TrainerBuffer source = average ? TrainerBuffer::average : TrainerBuffer::parameter;
    if (!has(source)) return Status::error(Code::invalid_argument, "the trainer keeps no average");
    NOEMA_TRY(check_batch(model_->config(), batch));
    NOEMA_TRY(check_targets(targets, batch.B * batch.T, model_->config().vocab_size));
    return masked_losses(engine, model_->config(), weights(source), batch, targets, excluded_id, model_->precision(),
                         losses, cancelled);
}

Status MaskedTrainer::publish(Engine& engine, bool average) {
    std::vector<float> values;
    NOEMA_TRY(copy_to(engine, average ? TrainerBuffer::average : TrainerBuffer::parameter, values));
    return model_->replace(engine, values.data());
}

}  // namespace noema
