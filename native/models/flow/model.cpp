#include <string_view>

#include "models/flow/faults.h"
#include "models/weight_store.h"

namespace noema {

namespace {

/// Of a table of components: the codebook or a flow's own.
bool is_log_sigma(const TensorSpec& spec) {
    constexpr std::string_view ending = "log_sigma";
    return spec.name.size() >= ending.size() &&
           spec.name.compare(spec.name.size() - ending.size(), ending.size(), ending) == 0;
}

}  // namespace

FlowModel::~FlowModel() = default;

Status FlowModel::load(Engine& engine, const FlowConfig& config, const std::vector<TensorSource>& tensors,
                       Precision precision, std::unique_ptr<FlowModel>& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(config.validate());
    std::unique_ptr<FlowModel> model(new FlowModel);
    model->config_ = config;
    model->precision_ = precision;
    NOEMA_TRY(model->adopt(engine, tensors, cancelled));
    out = std::move(model);
    return {};
}

Status FlowModel::adopt(Engine& engine, const std::vector<TensorSource>& tensors, const std::atomic<bool>* cancelled) {
    std::unique_ptr<WeightStore> store;
    const std::vector<TensorSpec> specs = flow_tensors(config_);
    NOEMA_TRY(WeightStore::load(engine, specs, tensors, precision_, store, cancelled));
    for (const TensorSpec& spec : specs)
        if (is_log_sigma(spec)) NOEMA_TRY(check_log_sigma(engine, spec.name, store->find(spec.name).view));
    weights_ = std::make_unique<FlowWeights>(
        bind_weights(config_, [&](const std::string& name) { return store->find(name); }));
    store_ = std::move(store);
    weight_bytes_ = store_->bytes();
    identity_ = next_identity();
    return {};
}

int64_t FlowModel::parameters() const {
    return total_size(flow_tensors(config_));
}

Status FlowModel::encode(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, FlowPass& out,
                         const std::atomic<bool>* cancelled) const {
    return flow_encode(engine, config_, *weights_, batch, latents, precision_, out, cancelled);
}

Status FlowModel::trace(Engine& engine, const FlowBatch& batch, const FlowLatents& latents, FlowTrace& out,
                        const std::atomic<bool>* cancelled) const {
    return flow_trace(engine, config_, *weights_, batch, latents, precision_, out, cancelled);
}

Status FlowModel::read(Engine& engine, int64_t level, const double* h, int64_t positions, FlowReading& out,
                       const std::atomic<bool>* cancelled) const {
    const View state = view(const_cast<double*>(h), DType::f64, positions, config_.channels());
    return flow_read(engine, config_, *weights_, level, state, precision_, out, cancelled);
}

Status FlowModel::invert(Engine& engine, const FlowBatch& batch, const double* h, const InverseRange& range,
                         FlowInverse& out, const std::atomic<bool>* cancelled) const {
    const int64_t L = static_cast<int64_t>(config_.flows.size());
    InverseRange whole = range;
    if (whole.from < 0) whole.from = L;
    NOEMA_TRY(check_batch(config_, batch, false));
    if (whole.to < 0 || whole.to >= whole.from || whole.from > L)
        return Status::error(Code::invalid_argument, "from level %lld to %lld: expected %lld down to 0",
                             static_cast<long long>(whole.from), static_cast<long long>(whole.to),
                             static_cast<long long>(L));
    const FlowShape shape = shape_of(config_, batch, precision_);
    return flow_invert(engine, shape, *weights_, {batch, h, whole, identity_}, out, cancelled);
}

Status FlowModel::copy_to(Engine& engine, float* flat) const {
    return store_->copy_to(engine, flow_tensors(config_), flat);
}

Status FlowModel::replace(Engine& engine, const float* flat) {
    return adopt(engine, sources_of(flow_tensors(config_), flat));
}

}  // namespace noema
