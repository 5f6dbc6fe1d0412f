#include <algorithm>
#include <cstring>

#include "models/masked/weights.h"
#include "models/weight_store.h"

namespace noema {

MaskedModel::~MaskedModel() = default;

Status MaskedModel::load(Engine& engine, const MaskedConfig& config, const std::vector<TensorSource>& tensors,
                         Precision precision, std::unique_ptr<MaskedModel>& out) {
    NOEMA_TRY(config.validate());
    std::unique_ptr<MaskedModel> model(new MaskedModel);
    model->config_ = config;
    model->precision_ = precision;
    NOEMA_TRY(model->adopt(engine, tensors));
    out = std::move(model);
    return {};
}

Status MaskedModel::adopt(Engine& engine, const std::vector<TensorSource>& tensors) {
    std::unique_ptr<WeightStore> store;
    const std::string looked_up = config_.tied_embeddings ? "" : "embed.weight";
    NOEMA_TRY(WeightStore::load(engine, masked_tensors(config_), tensors, precision_, looked_up, store));
    weights_ = std::make_unique<MaskedWeights>(
        bind_weights(config_, [&](const std::string& name) { return store->find(name); }));
    store_ = std::move(store);
    weight_bytes_ = store_->bytes();
    return {};
}

int64_t MaskedModel::parameters() const {
    int64_t n = 0;
    for (const TensorSpec& spec : masked_tensors(config_)) n += spec.size();
    return n;
}

Status MaskedModel::forward(Engine& engine, const MaskedBatch& batch, float* hidden,
                            std::vector<std::vector<float>>* trace, const std::atomic<bool>* cancelled) const {
    NOEMA_TRY(check_batch(config_, batch));
    const auto observe = [&](const View& v) {
        std::vector<float> copy(v.size());
        engine.backend().download(copy.data(), v.data, v.bytes());
        if (trace) trace->push_back(std::move(copy));
    };
    return engine.execute(
        [&](Context& c) {
            const View out = c.arena->tensor(DType::f32, batch.B * batch.T, config_.hidden_size);
            NOEMA_TRY(masked_forward(config_, *weights_, batch, precision_, out, c,
                                     trace ? std::function<void(const View&)>(observe) : nullptr));
            if (hidden && !c.arena->measuring()) engine.backend().download(hidden, out.data, out.bytes());
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
            NOEMA_TRY(linear(weights_->head, hidden, out, {}, precision_, c));
            if (!c.arena->measuring()) engine.backend().download(logits, out.data, out.bytes());
            return Status{};
        },
        cancelled);
}

Status MaskedModel::losses(Engine& engine, const MaskedBatch& batch, const int32_t* targets, int64_t excluded_id,
                           float* losses, const std::atomic<bool>* cancelled) const {
    NOEMA_TRY(check_batch(config_, batch));
    NOEMA_TRY(check_targets(config_, targets, batch.B * batch.T));
    return engine.execute(
        [&](Context& c) {
            return masked_losses(config_, *weights_, batch, targets, excluded_id, precision_, losses, c);
        },
        cancelled);
}

Status MaskedModel::copy_to(Engine& engine, float* flat) const {
    for (const TensorSpec& spec : masked_tensors(config_)) {
        const View from = store_->find(spec.name).view;
        const View to = view(flat, DType::f32, spec.rows, std::max<int64_t>(spec.columns, 1));
        const View as_matrix = view(from.data, from.dtype, spec.rows, to.shape[1]);
        NOEMA_TRY(engine.execute([&](Context& c) { return cast({.x = as_matrix, .y = to}, c); }));
        flat += spec.size();
    }
    return {};
}

Status MaskedModel::replace(Engine& engine, const float* flat) {
    std::vector<TensorSource> sources;
    for (const TensorSpec& spec : masked_tensors(config_)) {
        TensorSource source{.name = spec.name, .data = flat};
        source.shape =
            spec.is_matrix() ? std::vector<int64_t>{spec.rows, spec.columns} : std::vector<int64_t>{spec.rows};
        sources.push_back(std::move(source));
        flat += spec.size();
    }
    return adopt(engine, sources);
}

}  // namespace noema
