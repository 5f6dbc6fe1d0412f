#include "models/thought/weights.h"
#include "models/weight_store.h"

namespace noema {

ThoughtModel::~ThoughtModel() = default;

Status ThoughtModel::load(Engine& engine, const ThoughtConfig& config, const std::vector<TensorSource>& tensors,
                          Precision precision, std::unique_ptr<ThoughtModel>& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(config.validate());
    std::unique_ptr<ThoughtModel> model(new ThoughtModel);
    model->config_ = config;
    model->precision_ = precision;
    NOEMA_TRY(model->adopt(engine, tensors, cancelled));
    out = std::move(model);
    return {};
}

Status ThoughtModel::adopt(Engine& engine, const std::vector<TensorSource>& tensors,
                           const std::atomic<bool>* cancelled) {
    std::unique_ptr<WeightStore> store;
    // The fast loop goes back through them many times.
    const bool both_ways = true;
    NOEMA_TRY(WeightStore::load(engine, thought_tensors(config_), tensors, precision_, store, cancelled, both_ways));
    weights_ = std::make_unique<ThoughtWeights>(
        bind_weights(config_, [&](const std::string& name) { return store->find(name); }));
    store_ = std::move(store);
    weight_bytes_ = store_->bytes();
    identity_ = next_identity();
    return {};
}

int64_t ThoughtModel::parameters() const {
    return total_size(thought_tensors(config_));
}

Status ThoughtModel::forward(Engine& engine, const ThoughtBatch& b, const float* z, const Outputs& out,
                             const std::atomic<bool>* cancelled) const {
    NOEMA_TRY(check_batch(config_, b));
    if (!z) return Status::error(Code::invalid_argument, "a forward pass needs z");
    const ThoughtNetwork network{config_, *weights_, precision_, identity_};
    const BlockShape s = network.block(b.B, b.T);
    if (out.trace) out.trace->assign(config_.num_layers + 1, std::vector<float>(s.rows() * s.C));
    if (out.attention) out.attention->assign(config_.num_layers, std::vector<float>(s.rows() * s.H * s.M));
    const auto body = [&](Context& c) {
        const View hidden = c.arena->tensor(DType::f32, s.rows(), s.C);
        const View ids = c.upload(view(const_cast<int32_t*>(b.ids), DType::i32, s.rows()));
        const View at = c.upload(view(const_cast<float*>(z), DType::f32, b.B, config_.latent_size()));
        // What is seen goes to one vector after the other.
        const auto into = [&c](std::vector<std::vector<float>>* list) -> std::function<void(const View&)> {
            if (!list) return {};
            return [&c, list, i = size_t{0}](const View& v) mutable { c.fetch(v, (*list)[i++].data()); };
        };
        const ThoughtOnlooker onlooker{.stream = into(out.trace), .attention = into(out.attention)};
        NOEMA_TRY(thought_forward(network, s, ids, at, hidden, c, onlooker));
        if (out.hidden) c.fetch(hidden, out.hidden);
        return read_head(hidden, out, c);
    };
    return engine.execute(body, cancelled);
}

Status ThoughtModel::read_head(const View& hidden, const Outputs& out, Context& c) const {
    const int64_t R = hidden.shape[0];
    if (out.logits) {
        const View logits = c.arena->tensor(DType::f32, R, config_.vocab_size);
        NOEMA_TRY(linear(weights_->head, hidden, logits, {}, precision_, c));
        c.fetch(logits, out.logits);
    }
    if (out.likeliest) {
        const View likeliest = c.arena->tensor(DType::i32, R);
        NOEMA_TRY(row_stats(
            {.hidden = hidden, .weight = weights_->head, .out = {.argmax = likeliest}, .precision = precision_}, c));
        c.fetch(likeliest, out.likeliest);
    }
    return {};
}

Status ThoughtModel::losses(Engine& engine, const ThoughtBatch& batch, const float* z, float* losses,
                            const std::atomic<bool>* cancelled) const {
    return thought_losses(engine, {config_, *weights_, precision_, identity_}, batch, z, losses, cancelled);
}

Status ThoughtModel::fit(Engine& engine, const FitTask& task, Posterior& out,
                         const std::atomic<bool>* cancelled) const {
    return thought_fit(engine, {config_, *weights_, precision_, identity_}, task, nullptr, out, cancelled);
}

Status ThoughtModel::bound(Engine& engine, const BoundTask& task, Bound& out,
                           const std::atomic<bool>* cancelled) const {
    return thought_bound(engine, {config_, *weights_, precision_, identity_}, task, out, cancelled);
}

Status ThoughtModel::continue_text(Engine& engine, const ContinuationTask& task, Continuation& out,
                                   const std::atomic<bool>* cancelled) const {
    return thought_continue(engine, {config_, *weights_, precision_, identity_}, task, out, cancelled);
}

Status ThoughtModel::copy_to(Engine& engine, float* flat) const {
    return store_->copy_to(engine, thought_tensors(config_), flat);
}

Status ThoughtModel::replace(Engine& engine, const float* flat) {
    return adopt(engine, sources_of(thought_tensors(config_), flat));
}

}  // namespace noema
