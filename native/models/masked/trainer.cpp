#include <cmath>

#include "models/masked/weights.h"

namespace noema {

namespace {

constexpr const char* kBufferNames[] = {"parameter", "gradient", "m", "v", "average"};

Status no_tensor(TrainerBuffer buffer, const std::string& name) {
    return Status::error(Code::invalid_argument, "the trainer has no tensor '%s' in its buffer '%s'", name.c_str(),
                         kBufferNames[static_cast<int>(buffer)]);
}

}  // namespace

MaskedTrainer::~MaskedTrainer() = default;

Status MaskedTrainer::create(Engine& engine, std::shared_ptr<MaskedModel> model, bool keep_average,
                             std::unique_ptr<MaskedTrainer>& out) {
    std::unique_ptr<MaskedTrainer> t(new MaskedTrainer);
    t->specs_ = masked_tensors(model->config());
    t->device_ = engine.backend().device;
    for (const TensorSpec& spec : t->specs_) {
        t->offsets_.push_back(t->size_);
        t->size_ += spec.size();
        if (spec.is_matrix()) t->decayed_ = t->size_;
    }
    for (int b = 0; b < (keep_average ? 5 : 4); ++b) {
        t->buffers_[b] = Buffer(engine.backend(), t->size_ * sizeof(float));
        if (!t->buffers_[b].data())
            return Status::error(Code::out_of_memory, "%lld bytes of training state could not be had",
                                 static_cast<long long>(t->size_ * sizeof(float)));
        NOEMA_TRY(engine.clear(t->buffers_[b].data(), t->size_ * sizeof(float)));
    }
    std::vector<float> values(t->size_);
    NOEMA_TRY(model->copy_to(engine, values.data()));
    for (const TrainerBuffer b : {TrainerBuffer::parameter, TrainerBuffer::average})
        if (t->flat(b)) NOEMA_TRY(engine.upload(t->flat(b), values.data(), values.size() * sizeof(float)));
    t->model_ = std::move(model);
    out = std::move(t);
    return {};
}

View MaskedTrainer::view_of(TrainerBuffer buffer, const std::string& name) const {
    for (size_t i = 0; i < specs_.size() && flat(buffer); ++i) {
        const TensorSpec& s = specs_[i];
        if (s.name != name) continue;
        float* data = flat(buffer) + offsets_[i];
        return on_device(s.is_matrix() ? view(data, DType::f32, s.rows, s.columns) : view(data, DType::f32, s.rows),
                         device_);
    }
    return {};
}

int64_t MaskedTrainer::size_of(TrainerBuffer buffer, const std::string& name) const {
    const View v = view_of(buffer, name);
    return v ? v.size() : -1;
}

Status MaskedTrainer::read(Engine& engine, TrainerBuffer buffer, const std::string& name, float* out) const {
    const View from = view_of(buffer, name);
    if (!from) return no_tensor(buffer, name);
    return engine.download(out, from.data, from.bytes());
}

Status MaskedTrainer::write(Engine& engine, TrainerBuffer buffer, const std::string& name, const float* values) {
    const View to = view_of(buffer, name);
    if (!to) return no_tensor(buffer, name);
    return engine.upload(to.data, values, to.bytes());
}

Status MaskedTrainer::discard(Engine& engine) {
    return engine.clear(flat(TrainerBuffer::gradient), size_ * sizeof(float));
}

MaskedWeights MaskedTrainer::weights(TrainerBuffer buffer) const {
    return bind_weights(model_->config(), [&](const std::string& name) { return Weight{view_of(buffer, name)}; });
}

Status MaskedTrainer::accumulate(Engine& engine, const MaskedBatch& batch, const MaskedObjective& objective,
                                 double& loss_sum, const std::atomic<bool>* cancelled) {
    const MaskedConfig& config = model_->config();
    const int64_t R = batch.B * batch.T;
    NOEMA_TRY(check_batch(config, batch));
    NOEMA_TRY(check_targets(config, objective.targets, R));
    const MaskedWeights weights = this->weights(TrainerBuffer::parameter);
    const MaskedGradients gradients =
        bind_gradients(config, [&](const std::string& name) { return view_of(TrainerBuffer::gradient, name); });
    NOEMA_TRY(engine.execute(
        Recipe(identity_, batch.B, batch.T, batch.key_start != nullptr, batch.key_end != nullptr,
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

Status MaskedTrainer::update(const OptimiserStep& o, const View& norm, const View& schedule, int64_t begin, int64_t end,
                             Context& c) {
    const auto part = [&](TrainerBuffer b) {
        return on_device(view(flat(b) + begin, DType::f32, end - begin), device_);
    };
    AdamW p{.parameter = part(TrainerBuffer::parameter),
            .gradient = part(TrainerBuffer::gradient),
            .m = part(TrainerBuffer::m),
            .v = part(TrainerBuffer::v),
            .norm = norm,
            .schedule = schedule,
            .max_norm = o.max_norm,
            .gradient_scale = o.gradient_scale,
            .rate = o.rate,
            .beta1 = o.beta1,
            .beta2 = o.beta2,
            .epsilon = o.epsilon,
            .weight_decay = end <= decayed_ ? o.weight_decay : 0.0f,
            .ema_decay = o.ema_decay,
            .step = o.step};
    if (o.ema_decay > 0 && flat(TrainerBuffer::average)) p.average = part(TrainerBuffer::average);
    return adamw(p, c);
}

Status MaskedTrainer::step(Engine& engine, const OptimiserStep& o, float& gradient_norm) {
    const View gradient = on_device(view(flat(TrainerBuffer::gradient), DType::f32, size_), device_);
    const auto correction = [&](float beta) {
        return static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(o.step))));
    };
    float schedule[3] = {o.rate, correction(o.beta1), correction(o.beta2)};
    const auto body = [&](Context& c) {
        const View norm = c.arena->tensor(DType::f32, 1), now = c.upload(view(schedule, DType::f32, 3));
        NOEMA_TRY(global_norm({.x = gradient, .norm = norm, .scale = o.gradient_scale}, c));
        c.fetch(norm, &gradient_norm);
        NOEMA_TRY(update(o, norm, now, 0, decayed_, c));
        NOEMA_TRY(update(o, norm, now, decayed_, size_, c));
        // In the same recording, so that a step comes to rest once.
        const bool work = !c.arena->measuring() && !c.replaying;
        return work ? c.backend->clear(gradient.data, gradient.bytes(), c.stream) : Status{};
    };
    NOEMA_TRY(engine.execute(
        Recipe(identity_, o.beta1, o.beta2, o.epsilon, o.weight_decay, o.max_norm, o.gradient_scale, o.ema_decay),
        body));
    if (!std::isfinite(gradient_norm))
        return Status::error(Code::non_finite, "the gradient's norm is %g", gradient_norm);
    return {};
}

Status MaskedTrainer::losses(Engine& engine, const MaskedBatch& batch, const int32_t* targets, int64_t excluded_id,
                             bool average, float* losses, const std::atomic<bool>* cancelled) {
    const TrainerBuffer source = average ? TrainerBuffer::average : TrainerBuffer::parameter;
    if (!flat(source)) return Status::error(Code::invalid_argument, "the trainer keeps no average");
    NOEMA_TRY(check_batch(model_->config(), batch));
    NOEMA_TRY(check_targets(model_->config(), targets, batch.B * batch.T));
    const MaskedWeights weights = this->weights(source);
    return masked_losses(engine, model_->config(), weights, batch, targets, excluded_id, model_->precision(), losses,
                         cancelled);
}

Status MaskedTrainer::publish(Engine& engine, bool average) {
    const TrainerBuffer source = average ? TrainerBuffer::average : TrainerBuffer::parameter;
    if (!flat(source)) return Status::error(Code::invalid_argument, "the trainer keeps no average");
    std::vector<float> values(size_);
    NOEMA_TRY(engine.download(values.data(), flat(source), values.size() * sizeof(float)));
    return model_->replace(engine, values.data());
}

}  // namespace noema
