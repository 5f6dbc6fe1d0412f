#include <cmath>

#include "noema/model.h"

namespace noema {

namespace {

constexpr const char* kBufferNames[] = {"parameter", "gradient", "m", "v", "average"};

Status no_tensor(TrainerBuffer buffer, const std::string& name) {
    return Status::error(Code::invalid_argument, "the trainer has no tensor '%s' in its buffer '%s'", name.c_str(),
                         kBufferNames[static_cast<int>(buffer)]);
}

}  // namespace

Status TrainingState::allocate(Engine& engine, std::vector<TensorSpec> specs, bool keep_average, const float* initial) {
    specs_ = std::move(specs);
    device_ = engine.backend().device;
    for (const TensorSpec& spec : specs_) {
        offsets_.push_back(size_);
        size_ += spec.size();
    }
    freeze([](const std::string&) { return false; });
    const size_t bytes = size_ * sizeof(float);
    for (int b = 0; b < (keep_average ? 5 : 4); ++b) {
        buffers_[b] = Buffer(engine.backend(), bytes);
        if (!buffers_[b].data()) return engine.no_memory(bytes, "training state");
        const auto buffer = static_cast<TrainerBuffer>(b);
        const bool filled = buffer == TrainerBuffer::parameter || buffer == TrainerBuffer::average;
        NOEMA_TRY(filled ? engine.upload(flat(buffer), initial, bytes) : engine.clear(flat(buffer), bytes));
    }
    return {};
}

void TrainingState::freeze(const std::function<bool(const std::string& name)>& frozen) {
    runs_.clear();
    for (size_t i = 0; i < specs_.size(); ++i) {
        if (frozen(specs_[i].name)) continue;
        const int64_t begin = offsets_[i], end = begin + specs_[i].size();
        const bool decays = specs_[i].decays();
        if (!runs_.empty() && runs_.back().end == begin && runs_.back().decays == decays)
            runs_.back().end = end;
        else
            runs_.push_back({begin, end, decays});
    }
    identity_ = next_identity();
}

View TrainingState::view_of(TrainerBuffer buffer, const std::string& name) const {
    for (size_t i = 0; i < specs_.size() && has(buffer); ++i) {
        const TensorSpec& s = specs_[i];
        if (s.name != name) continue;
        float* data = flat(buffer) + offsets_[i];
        return on_device(s.is_matrix() ? view(data, DType::f32, s.rows, s.columns) : view(data, DType::f32, s.rows),
                         device_);
    }
    return {};
}

int64_t TrainingState::size_of(TrainerBuffer buffer, const std::string& name) const {
    const View v = view_of(buffer, name);
    return v ? v.size() : -1;
}

Status TrainingState::read(Engine& engine, TrainerBuffer buffer, const std::string& name, float* out) const {
    const View from = view_of(buffer, name);
    if (!from) return no_tensor(buffer, name);
    return engine.download(out, from.data, from.bytes());
}

Status TrainingState::write(Engine& engine, TrainerBuffer buffer, const std::string& name, const float* values) {
    const View to = view_of(buffer, name);
    if (!to) return no_tensor(buffer, name);
    return engine.upload(to.data, values, to.bytes());
}

Status TrainingState::copy_to(Engine& engine, TrainerBuffer buffer, std::vector<float>& out) const {
    if (!has(buffer))
        return Status::error(Code::invalid_argument, "the trainer keeps no %s", kBufferNames[static_cast<int>(buffer)]);
    out.resize(size_);
    return engine.download(out.data(), flat(buffer), size_ * sizeof(float));
}

Status TrainingState::discard(Engine& engine) {
    return engine.clear(flat(TrainerBuffer::gradient), size_ * sizeof(float));
}

Status TrainingState::update(const OptimiserStep& o, const View& norm, const View& schedule, const Run& run,
                             Context& c) {
    const auto part = [&](TrainerBuffer b) {
        return on_device(view(flat(b) + run.begin, DType::f32, run.end - run.begin), device_);
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
            .weight_decay = run.decays ? o.weight_decay : 0.0f,
            .ema_decay = o.ema_decay,
            .step = o.step};
    if (o.ema_decay > 0 && has(TrainerBuffer::average)) p.average = part(TrainerBuffer::average);
    return adamw(p, c);
}

Status TrainingState::step(Engine& engine, const OptimiserStep& o, float& gradient_norm) {
    const View gradient = on_device(view(flat(TrainerBuffer::gradient), DType::f32, size_), device_);
    const auto correction = [&](float beta) {
        return static_cast<float>(1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(o.step))));
    };
    float schedule[3] = {o.rate, correction(o.beta1), correction(o.beta2)};
    const auto body = [&](Context& c) {
        const View norm = c.arena->tensor(DType::f32, 1), now = c.upload(view(schedule, DType::f32, 3));
        NOEMA_TRY(global_norm({.x = gradient, .norm = norm, .scale = o.gradient_scale}, c));
        c.fetch(norm, &gradient_norm);
        for (const Run& run : runs_) NOEMA_TRY(update(o, norm, now, run, c));
        return c.clear(gradient);  // in the same recording, so that a step comes to rest once
    };
    NOEMA_TRY(engine.execute(
        Recipe(identity_, o.beta1, o.beta2, o.epsilon, o.weight_decay, o.max_norm, o.gradient_scale, o.ema_decay),
        body));
    if (!std::isfinite(gradient_norm))
        return Status::error(Code::non_finite, "the gradient's norm is %g", gradient_norm);
    return {};
}

}  // namespace noema
