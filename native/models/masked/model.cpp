#include "models/batch_checks.h"
#include "models/masked/weights.h"
#include "models/weight_store.h"

namespace noema {

MaskedModel::~MaskedModel() = default;

Status MaskedModel::load(Engine& engine, const MaskedConfig& config, const std::vector<TensorSource>& tensors,
                         Precision precision, std::unique_ptr<MaskedModel>& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(config.validate());
    std::unique_ptr<MaskedModel> model(new MaskedModel);
    model->config_ = config;
    model->precision_ = precision;
    NOEMA_TRY(model->adopt(engine, tensors, cancelled));
    out = std::move(model);
    return {};
}

Status MaskedModel::adopt(Engine& engine, const std::vector<TensorSource>& tensors,
                          const std::atomic<bool>* cancelled) {
    std::unique_ptr<WeightStore> store;
    NOEMA_TRY(WeightStore::load(engine, masked_tensors(config_), tensors, precision_, store, cancelled));
    weights_ = std::make_unique<MaskedWeights>(
        bind_weights(config_, [&](const std::string& name) { return store->find(name); }));
    store_ = std::move(store);
    weight_bytes_ = store_->bytes();
    identity_ = next_identity();
    return {};
}

int64_t MaskedModel::parameters() const {
    return total_size(masked_tensors(config_));
}

Status MaskedModel::forward(Engine& engine, const MaskedBatch& batch, float* hidden,
                            std::vector<std::vector<float>>* trace, const std::atomic<bool>* cancelled) const {
    NOEMA_TRY(check_batch(config_, batch));
    const int64_t R = batch.B * batch.T, C = config_.hidden_size;
    if (trace) {
        trace->assign(config_.num_layers + 2, std::vector<float>(R * C));
        if (config_.is_dit()) trace->emplace_back(config_.condition_size);
    }
    return engine.execute(
        [&](Context& c) {
            const View out = c.arena->tensor(DType::f32, R, C);
            size_t seen = 0;
            const auto observe = [&](const View& v) { c.fetch(v, (*trace)[seen++].data()); };
            NOEMA_TRY(masked_forward(config_, *weights_, batch, precision_, out, c,
                                     trace ? std::function<void(const View&)>(observe) : nullptr));
            if (hidden) c.fetch(out, hidden);
            return Status{};
        },
        cancelled);
}

Status MaskedModel::logits(Engine& engine, const MaskedBatch& batch, float* logits,
                           const std::atomic<bool>* cancelled) const {
    NOEMA_TRY(check_batch(config_, batch));
    const int64_t R = batch.B * batch.T;
    return engine.execute(
        [&](Context& c) {
            const View hidden = c.arena->tensor(DType::f32, R, config_.hidden_size);
            const View out = c.arena->tensor(DType::f32, R, config_.vocab_size);
            NOEMA_TRY(masked_forward(config_, *weights_, batch, precision_, hidden, c));
            NOEMA_TRY(biased_linear({weights_->head, weights_->head_bias}, hidden, out, precision_, c));
            c.fetch(out, logits);
            return Status{};
        },
        cancelled);
}

Status MaskedModel::losses(Engine& engine, const MaskedBatch& batch, const int32_t* targets, int64_t excluded_id,
                           float* losses, const std::atomic<bool>* cancelled) const {
    NOEMA_TRY(check_batch(config_, batch));
    NOEMA_TRY(check_targets(targets, batch.B * batch.T, config_.vocab_size));
    return masked_losses(engine, config_, *weights_, batch, targets, excluded_id, precision_, losses, cancelled);
}

Status MaskedModel::copy_to(Engine& engine, float* flat) const {
    return store_->copy_to(engine, masked_tensors(config_), flat);
}

Status MaskedModel::replace(Engine& engine, const float* flat) {
    return adopt(engine, sources_of(masked_tensors(config_), flat));
}

}  // namespace noema
