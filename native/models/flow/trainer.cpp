#include <cmath>

#include "models/flow/weights.h"

namespace noema {

namespace {

Status from_tokens(const FlowLatents& latents) {
    if (latents.noise) return {};
    return Status::error(Code::invalid_argument, "training needs the encoder's noise, not latents");
}

bool is_readout(const std::string& name) {
    return name.find(".readout.") != std::string::npos;
}

}  // namespace

Status FlowTrainer::create(Engine& engine, std::shared_ptr<FlowModel> model, bool keep_average,
                           std::unique_ptr<FlowTrainer>& out) {
    std::unique_ptr<FlowTrainer> t(new FlowTrainer);
    std::vector<float> values(model->parameters());
    NOEMA_TRY(model->copy_to(engine, values.data()));
    NOEMA_TRY(t->allocate(engine, flow_tensors(model->config()), keep_average, values.data()));
    t->model_ = std::move(model);
    out = std::move(t);
    return {};
}

void FlowTrainer::train_from(int64_t stage, bool fixed_means) {
    stage_ = stage;
    freeze([=](const std::string& name) {
        if (name == "codebook.mean" && fixed_means) return true;
        if (name.rfind("flows.", 0) != 0) return stage > 0;
        return std::stoll(name.substr(6)) < stage || is_readout(name);
    });
}

void FlowTrainer::train_readouts() {
    freeze([](const std::string& name) { return !is_readout(name); });
}

Status FlowTrainer::accumulate_readouts(Engine& engine, const FlowBatch& batch, const FlowLatents& latents,
                                        const float* weights, FlowReadings& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(from_tokens(latents));
    FlowPass pass{.keep_states = true};
    NOEMA_TRY(encode(engine, batch, latents, false, pass, cancelled));
    const FlowConfig& config = model_->config();
    const FlowGradients gradients =
        bind_gradients(config, [&](const std::string& name) { return view_of(TrainerBuffer::gradient, name); });
    NOEMA_TRY(flow_readings(engine, shape_of(config, batch, model_->precision()),
                            this->weights(TrainerBuffer::parameter), &gradients, {batch, pass.states, weights}, out,
                            cancelled));
    for (const std::vector<float>& losses : out.losses)
        for (const float nats : losses)
            if (!std::isfinite(nats)) return Status::error(Code::non_finite, "a readout's loss is %g at a token", nats);
    return {};
}

Status FlowTrainer::readings(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, bool average,
                             FlowReadings& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(from_tokens(latents));
    FlowPass pass{.keep_states = true};
    NOEMA_TRY(encode(engine, batch, latents, average, pass, cancelled));
    return flow_readings(engine, shape_of(model_->config(), batch, model_->precision()),
                         weights(average ? TrainerBuffer::average : TrainerBuffer::parameter), nullptr,
                         {batch, pass.states, nullptr}, out, cancelled);
}

FlowWeights FlowTrainer::weights(TrainerBuffer buffer) const {
    return bind_weights(model_->config(), [&](const std::string& name) { return Weight{view_of(buffer, name)}; });
}

Status FlowTrainer::accumulate(Engine& engine, const FlowBatch& batch, const FlowLatents& latents,
                               const FlowObjective& objective, FlowPass& out, const std::atomic<bool>* cancelled) {
    const FlowConfig& config = model_->config();
    NOEMA_TRY(check_batch(config, batch, true));
    NOEMA_TRY(from_tokens(latents));
    const FlowShape shape = shape_of(config, batch, model_->precision());
    FlowLesson lesson(shape, batch, latents, objective);
    out.keep_states = false;
    make_room(shape, 0, out);
    const FlowWeights weights = this->weights(TrainerBuffer::parameter);
    const FlowGradients gradients =
        bind_gradients(config, [&](const std::string& name) { return view_of(TrainerBuffer::gradient, name); });
    NOEMA_TRY(engine.execute(
        Recipe(identity(), batch.B, batch.T, batch.prefix),
        [&](Context& c) {
            return flow_gradients(shape, weights, gradients, lesson, static_cast<size_t>(stage_), out, c);
        },
        cancelled));
    telescope(shape, out);
    for (const float nats : out.nelbo)
        if (!std::isfinite(nats)) return Status::error(Code::non_finite, "the training loss is %g at a position", nats);
    return {};
}

Status FlowTrainer::encode(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, bool average,
                           FlowPass& out, const std::atomic<bool>* cancelled) {
    const TrainerBuffer source = average ? TrainerBuffer::average : TrainerBuffer::parameter;
    if (!has(source)) return Status::error(Code::invalid_argument, "the trainer keeps no average");
    return flow_encode(engine, model_->config(), weights(source), batch, latents, model_->precision(), out, cancelled);
}

Status FlowTrainer::publish(Engine& engine, bool average) {
    std::vector<float> values;
    NOEMA_TRY(copy_to(engine, average ? TrainerBuffer::average : TrainerBuffer::parameter, values));
    return model_->replace(engine, values.data());
}

}  // namespace noema
