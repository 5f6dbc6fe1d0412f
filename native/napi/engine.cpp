#include "tensors.h"

namespace noema::napi {

namespace {

constexpr const char* kPrecisions[] = {"f32", "bf16", nullptr};

constexpr int64_t kMost = int64_t{1} << 31;

/// What all families have in common.
template <class Config>
Config read_sizes(const Arguments& a) {
    Config c;
    c.vocab_size = a.integer("vocabSize", 1, kMost);
    c.hidden_size = a.integer("hiddenSize", 1, kMost);
    c.num_heads = a.integer("numHeads", 1, kMost);
    c.intermediate_size = a.integer("intermediateSize", 1, kMost);
    c.max_positions = a.integer("maxPositions", 1, kMost);
    c.rope_theta = a.number("ropeTheta");
    c.rms_norm_eps = static_cast<float>(a.number("rmsNormEps"));
    return c;
}

/// What the families that are one transformer have in common.
template <class Config>
Config read_transformer_config(const Arguments& a) {
    Config c = read_sizes<Config>(a);
    c.num_layers = a.integer("numLayers", 1, kMost);
    c.tied_embeddings = a.boolean_or("tiedEmbeddings", false);
    return c;
}

MaskedConfig read_grouped_config(const Arguments& a) {
    auto c = read_transformer_config<MaskedConfig>(a);
    c.num_kv_heads = a.integer("numKvHeads", 1, kMost);
    return c;
}

MaskedConfig read_masked_config(const Arguments& a) {
    MaskedConfig c = read_grouped_config(a);
    c.mask_token_id = a.integer("maskTokenId", 0, kMost);
    c.qkv_bias = a.boolean_or("qkvBias", false);
    c.shifted = a.boolean_or("shifted", false);
    c.condition_size = a.integer_or("conditionSize", 0, 1, kMost);
    return c;
}

MaskedConfig read_autoregressive_config(const Arguments& a) {
    MaskedConfig c = read_grouped_config(a);
    c.causal = true;
    return c;
}

constexpr const char* kFlowKinds[] = {"affine", "mixture-cdf", "mixture-rosenblatt", nullptr};
constexpr const char* kDirections[] = {"forward", "reverse", nullptr};

FlowStage read_stage(const Arguments& a) {
    FlowStage f;
    f.kind = static_cast<FlowKind>(a.choice("kind", kFlowKinds));
    f.reverse = a.choice("direction", kDirections) == 1;
    f.num_layers = a.integer("numLayers", 1, kMost);
    f.num_components = a.integer_or("numComponents", 0, 1, kMost);
    f.maf_hidden = a.integer_or("mafHiddenSize", 0, 1, kMost);
    f.maf_features = a.integer_or("mafFeatures", 0, 1, kMost);
    f.readout_hidden = a.integer_or("readoutHiddenSize", 0, 1, kMost);
    return f;
}

FlowConfig read_flow_config(const Arguments& a) {
    auto c = read_sizes<FlowConfig>(a);
    c.latent_size = a.integer("latentSize", 1, kMost);
    c.patch_size = a.integer("patchSize", 1, kMost);
    c.channel_mix = a.boolean_or("channelMix", false);
    c.prefix_conditioning = a.boolean_or("prefixConditioning", false);
    for (const Arguments& stage : a.list("flows")) c.flows.push_back(read_stage(stage));
    return c;
}

ThoughtConfig read_thought_config(const Arguments& a) {
    auto c = read_transformer_config<ThoughtConfig>(a);
    c.attention_window = a.integer("attentionWindow", 1, kMost);
    c.num_latents = a.integer("numLatents", 1, kMost);
    return c;
}

class EngineHandle : public Napi::ObjectWrap<EngineHandle> {
 public:
    explicit EngineHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineHandle>(info) {
        const Arguments a(info, "createEngine");
        const std::string name = a.text("backend");
        const int threads = static_cast<int>(a.integer_or("threads", 0, 0, 1024));
        runtime_ = Runtime::create(info.Env(), name, threads);
    }

    static Napi::Value define(Napi::Env env) {
        return DefineClass(
            env, "NativeEngine",
            {InstanceMethod("ready", &EngineHandle::ready), InstanceMethod("stats", &EngineHandle::stats),
             InstanceMethod("dispose", &EngineHandle::dispose),
             InstanceMethod("loadMasked", &EngineHandle::load_masked),
             InstanceMethod("loadAutoregressive", &EngineHandle::load_autoregressive),
             InstanceMethod("loadFlow", &EngineHandle::load_flow),
             InstanceMethod("loadThought", &EngineHandle::load_thought)});
    }

 private:
    /// A promise that the backend is open and its stream too, or of the reason why not.
    Napi::Value ready(const Napi::CallbackInfo& info) {
        const auto nothing = [](Engine& engine, const std::atomic<bool>*) {
            return engine.execute([](Context&) { return Status{}; });
        };
        return runtime_->submit(info.Env(), {nothing, nullptr, nullptr});
    }

    Napi::Value stats(const Napi::CallbackInfo& info) {
        Napi::Object out = Napi::Object::New(info.Env());
        const Engine* engine = runtime_->engine();
        const bool chooses = engine && engine->backend().current_isa;
        out.Set("backend", runtime_->backend_name());
        out.Set("isa", chooses ? engine->backend().current_isa() : "portable");
        out.Set("threads", engine ? engine->threads() : 0);
        out.Set("running", runtime_->running());
        out.Set("waiting", static_cast<double>(runtime_->waiting()));
        out.Set("finished", static_cast<double>(runtime_->finished()));
        out.Set("weightBytes", static_cast<double>(runtime_->weight_bytes.load()));
        out.Set("arenaBytes", static_cast<double>(runtime_->arena_bytes()));
        return out;
    }

    Napi::Value load_masked(const Napi::CallbackInfo& info) {
        return load<MaskedModel>(info, "loadMasked", read_masked_config, new_masked_model);
    }

    Napi::Value load_autoregressive(const Napi::CallbackInfo& info) {
        return load<MaskedModel>(info, "loadAutoregressive", read_autoregressive_config, new_masked_model);
    }

    Napi::Value load_flow(const Napi::CallbackInfo& info) {
        return load<FlowModel>(info, "loadFlow", read_flow_config, new_flow_model);
    }

    Napi::Value load_thought(const Napi::CallbackInfo& info) {
        return load<ThoughtModel>(info, "loadThought", read_thought_config, new_thought_model);
    }

    /// (config, tensors, precision, cancellation?): a promise of the model.
    template <class Model, class Read, class Make>
    Napi::Value load(const Napi::CallbackInfo& info, const char* function, Read read, Make make) {
        if (info.Length() < 3)
            throw_error(info.Env(),
                        Status::error(Code::invalid_argument, "%s: expected config, tensors, precision", function));
        const auto config = read(Arguments(info, function));
        const auto tensors = read_tensors(info[1], function);
        Napi::Object options = Napi::Object::New(info.Env());
        options.Set("precision", info[2]);
        options.Set("cancellation", info[3]);
        const Arguments a(options, function);
        const auto precision = static_cast<Precision>(a.choice("precision", kPrecisions));
        auto model = std::make_shared<std::shared_ptr<Model>>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            std::unique_ptr<Model> loaded;
            NOEMA_TRY(Model::load(engine, config, tensors->sources, precision, loaded, cancelled));
            *model = std::move(loaded);
            return Status{};
        };
        const auto result = [=, runtime = runtime_](Napi::Env env) -> Napi::Value {
            return make(env, runtime, *model);
        };
        return runtime_->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value dispose(const Napi::CallbackInfo& info) {
        runtime_->stop(info.Env());
        return info.Env().Undefined();
    }

    std::shared_ptr<Runtime> runtime_;
};

}  // namespace

Napi::Value define_engine(Napi::Env env) {
    return EngineHandle::define(env);
}

}  // namespace noema::napi
