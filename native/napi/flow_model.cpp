#include "flow_batch.h"
#include "model_handle.h"

namespace noema::napi {

std::shared_ptr<OwnedFlowBatch> read_flow_batch(const Arguments& a, const FlowConfig& config) {
    constexpr int64_t most = int64_t{1} << 24;
    auto owned = std::make_shared<OwnedFlowBatch>();
    FlowBatch& b = owned->batch;
    b.B = a.integer("batch", 1, most);
    b.T = a.integer("length", 1, most);
    b.prefix = a.integer_or("prefix", 0, 0, b.T);
    owned->ids = a.ids("ids");
    if (static_cast<int64_t>(owned->ids.size()) != b.B * b.T)
        a.refuse("ids", "batch * length = " + std::to_string(b.B * b.T) + " entries");
    b.ids = owned->ids.data();
    owned->noise = a.floats_or_empty("noise");
    if (a.has("latents")) owned->latents = a.state("latents");
    const int64_t size = b.B * (b.T - b.prefix) * config.latent_size;
    const auto right = [&](size_t n) { return static_cast<int64_t>(n) == size; };
    owned->level = a.integer_or("level", 0, 0, static_cast<int64_t>(config.flows.size()));
    const bool given = a.has("latents");
    if (given == a.has("noise")) a.refuse("noise", "either noise or latents");
    if (!right(given ? owned->latents.size() : owned->noise.size()))
        a.refuse(given ? "latents" : "noise",
                 "batch * (length - prefix) * latentSize = " + std::to_string(size) + " values");
    return owned;
}

Napi::Value fault_object(Napi::Env env, const std::optional<FlowFault>& fault) {
    if (!fault) return {};
    Napi::Object out = Napi::Object::New(env);
    if (fault->flow >= 0) out.Set("flow", static_cast<double>(fault->flow));
    out.Set("sequence", static_cast<double>(fault->sequence));
    out.Set("firstPosition", static_cast<double>(fault->first));
    out.Set("lastPosition", static_cast<double>(fault->last));
    return out;
}

Napi::Value pass_object(Napi::Env env, const FlowPass& pass) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("nelbo", to_array(env, pass.nelbo));
    out.Set("logSum", to_array(env, pass.log_sum));
    out.Set("logDensity", to_array(env, pass.log_density));
    out.Set("logDet", to_array(env, pass.log_det));
    if (pass.keep_states) out.Set("states", to_array(env, pass.states));
    return out;
}

namespace {

constexpr const char* kMethods[] = {"sequential", "jacobi", nullptr};

/// A range whose arrays the job owns.
struct OwnedInversion {
    std::vector<uint8_t> fixed;
    std::vector<double> given;
    std::vector<uint64_t> seeds;
    InverseRange range;
};

InversePlan read_plan(const Arguments& a) {
    constexpr int64_t most = int64_t{1} << 24;
    InversePlan plan;
    plan.method = static_cast<InverseMethod>(a.choice("method", kMethods));
    plan.modules = a.integer_or("modules", 1, 1, most);
    plan.sweeps = a.integer_or("sweeps", 0, 0, most);
    plan.tolerance = static_cast<float>(a.number_or("tolerance", plan.tolerance));
    plan.from_zeros = a.boolean_or("fromZeros", false);
    return plan;
}

/// Reads `ancestral`, whose seeds are one per sequence.
void read_draw(const Arguments& a, int64_t B, OwnedInversion& owned) {
    const Arguments draw = a.object("ancestral");
    owned.seeds = draw.seeds("seeds");
    if (static_cast<int64_t>(owned.seeds.size()) != B) draw.refuse("seeds", "one per sequence, " + std::to_string(B));
    owned.range.ancestral = {.seeds = owned.seeds.data(),
                             .temperature = static_cast<float>(draw.number("temperature")),
                             .top_k = draw.integer("topK", 0, int64_t{1} << 31),
                             .top_p = static_cast<float>(draw.number("topP"))};
}

/// Reads `to`, `plans`, `check`, `ancestral`, and `fixed` with `given`; base noise starts at the top, latents at their level.
std::shared_ptr<OwnedInversion> read_inversion(const Arguments& a, const OwnedFlowBatch& batch,
                                               const FlowConfig& config) {
    const int64_t L = static_cast<int64_t>(config.flows.size());
    auto owned = std::make_shared<OwnedInversion>();
    InverseRange& range = owned->range;
    range.from = batch.noise.empty() ? batch.level : L;
    range.to = a.integer_or("to", 0, 0, L - 1);
    range.check = a.boolean_or("check", false);
    if (a.has("plans"))
        for (const Arguments& plan : a.list("plans")) range.plans.push_back(read_plan(plan));
    if (a.has("ancestral")) read_draw(a, batch.batch.B, *owned);
    if (!a.has("fixed")) return owned;
    const FlowBatch& b = batch.batch;
    const int64_t positions = b.B * (b.T - b.prefix) / config.patch_size;
    owned->fixed = a.bytes("fixed");
    owned->given = a.state("given");
    if (static_cast<int64_t>(owned->fixed.size()) != positions)
        a.refuse("fixed", "one entry per modelled position, " + std::to_string(positions));
    if (static_cast<int64_t>(owned->given.size()) != positions * config.channels())
        a.refuse("given", std::to_string(positions * config.channels()) + " values, as many as the state has");
    range.fixed = owned->fixed.data();
    range.given = owned->given.data();
    return owned;
}

/// Of a job that gives back *out, or its fault.
template <class Out>
std::function<Napi::Value(Napi::Env)> details_of(const std::shared_ptr<Out>& out) {
    return [=](Napi::Env env) { return fault_object(env, out->fault); };
}

class FlowModelHandle : public ModelHandle<FlowModelHandle, FlowModel, FlowTrainer> {
 public:
    using ModelHandle::ModelHandle;

    static Napi::Value define(Napi::Env env) {
        return define_with(
            env, "NativeFlowModel",
            {InstanceMethod("encode", &FlowModelHandle::encode), InstanceMethod("trace", &FlowModelHandle::trace),
             InstanceMethod("invert", &FlowModelHandle::invert), InstanceMethod("read", &FlowModelHandle::read)});
    }
    static Napi::Object new_trainer(Napi::Env env, RuntimePointer runtime, std::shared_ptr<FlowTrainer> trainer) {
        return new_flow_trainer(env, std::move(runtime), std::move(trainer));
    }

 private:
    Napi::Value encode(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "encode");
        const auto batch = read_flow_batch(a, model->config());
        auto out = std::make_shared<FlowPass>();
        out->keep_states = a.boolean_or("states", false);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->encode(engine, batch->batch, batch->source(), *out, cancelled);
        };
        const auto result = [=](Napi::Env env) { return pass_object(env, *out); };
        return runtime()->submit(info.Env(), {work, result, a.cancellation(), nullptr, details_of(out)});
    }

    Napi::Value trace(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "trace");
        const auto batch = read_flow_batch(a, model->config());
        auto out = std::make_shared<FlowTrace>();
        out->to = a.integer_or("to", -1, 0, static_cast<int64_t>(model->config().flows.size()));
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->trace(engine, batch->batch, batch->source(), *out, cancelled);
        };
        const auto result = [=](Napi::Env env) { return to_array(env, out->states); };
        return runtime()->submit(info.Env(), {work, result, a.cancellation(), nullptr, details_of(out)});
    }

    Napi::Value read(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "read");
        const int64_t level = a.integer("level", 0, static_cast<int64_t>(model->config().flows.size()));
        const int64_t c = model->config().channels();
        const auto state = std::make_shared<std::vector<double>>(a.state("latents"));
        if (state->empty() || static_cast<int64_t>(state->size()) % c != 0)
            a.refuse("latents", "a multiple of " + std::to_string(c) + " values");
        const auto out = std::make_shared<FlowReading>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return model->read(engine, level, state->data(), static_cast<int64_t>(state->size()) / c, *out, cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object object = Napi::Object::New(env);
            object.Set("tokens", to_array(env, out->tokens));
            object.Set("confidence", to_array(env, out->confidence));
            return object;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation(), nullptr, details_of(out)});
    }

    Napi::Value invert(const Napi::CallbackInfo& info) {
        const auto model = alive(info, "model");
        const Arguments a(info, "invert");
        const auto batch = read_flow_batch(a, model->config());
        const auto inversion = read_inversion(a, *batch, model->config());
        auto out = std::make_shared<FlowInverse>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            const std::vector<double> state =
                batch->noise.empty() ? batch->latents : std::vector<double>(batch->noise.begin(), batch->noise.end());
            return model->invert(engine, batch->batch, state.data(), inversion->range, *out, cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object object = Napi::Object::New(env);
            object.Set("state", to_array(env, out->state));
            object.Set("tokens", to_array(env, out->tokens));
            object.Set("confidence", to_array(env, out->confidence));
            object.Set("sweeps", to_array(env, out->sweeps));
            object.Set("residuals", to_array(env, out->residuals));
            return object;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation(), nullptr, details_of(out)});
    }
};

}  // namespace

Napi::Value define_flow_model(Napi::Env env) {
    return FlowModelHandle::define(env);
}

Napi::Object new_flow_model(Napi::Env env, RuntimePointer runtime, std::shared_ptr<FlowModel> model) {
    return FlowModelHandle::make(addon_data(env).flow_model, std::move(runtime), std::move(model));
}

}  // namespace noema::napi
