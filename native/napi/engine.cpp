#include <cmath>

#include "runtime.h"

namespace noema::napi {

namespace {

constexpr const char* kDTypes[] = {"f32", "bf16", "f16", nullptr};
constexpr DType kDTypeOf[] = {DType::f32, DType::bf16, DType::f16};
constexpr const char* kPrecisions[] = {"f32", "bf16", nullptr};
constexpr int64_t kManyBytes = int64_t{1} << 53;

MaskedConfig read_config(const Arguments& a) {
    constexpr int64_t most = int64_t{1} << 31;
    MaskedConfig c;
    c.vocab_size = a.integer("vocabSize", 1, most);
    c.hidden_size = a.integer("hiddenSize", 1, most);
    c.num_layers = a.integer("numLayers", 1, most);
    c.num_heads = a.integer("numHeads", 1, most);
    c.num_kv_heads = a.integer("numKvHeads", 1, most);
    c.intermediate_size = a.integer("intermediateSize", 1, most);
    c.max_positions = a.integer("maxPositions", 1, most);
    c.rope_theta = a.number("ropeTheta");
    c.rms_norm_eps = static_cast<float>(a.number("rmsNormEps"));
    c.mask_token_id = a.integer("maskTokenId", 0, most);
    c.tied_embeddings = a.boolean_or("tiedEmbeddings", false);
    return c;
}

/// Tensors of one load: sources, and copies of those that came as typed arrays.
struct Tensors {
    std::vector<TensorSource> sources;
    std::vector<std::vector<float>> copies;
};

std::vector<int64_t> read_shape(const Arguments& a) {
    const Napi::Value v = a.value("shape");
    if (!v.IsArray() || v.As<Napi::Array>().Length() > kMaxRank) a.refuse("shape", "an array of at most 4 sizes");
    const Napi::Array array = v.As<Napi::Array>();
    std::vector<int64_t> shape;
    for (uint32_t i = 0; i < array.Length(); ++i) {
        const Napi::Value size = array.Get(i);
        const double d = size.IsNumber() ? size.As<Napi::Number>().DoubleValue() : -1;
        if (!(d >= 0 && d <= 4294967296.0 && d == std::floor(d))) a.refuse("shape", "whole sizes from 0 to 2^32");
        shape.push_back(static_cast<int64_t>(d));
    }
    return shape;
}

void read_tensor(const Arguments& a, Tensors& out) {
    TensorSource source;
    source.name = a.text("name");
    source.dtype = kDTypeOf[a.choice("dtype", kDTypes)];
    source.shape = read_shape(a);
    if (!a.has("data")) {
        source.path = a.text("path");
        source.offset = static_cast<uint64_t>(a.integer("offset", 0, kManyBytes));
    } else {
        out.copies.push_back(a.floats("data"));
        source.data = out.copies.back().data();  // a moved vector keeps its memory
        double size = 1;  // four sizes of 2^32 overflow integers; sizes that can be equal are exact
        for (const int64_t n : source.shape) size *= static_cast<double>(n);
        if (source.dtype != DType::f32 || size != static_cast<double>(out.copies.back().size()))
            a.refuse("data", "f32 values, as many as the shape has");
    }
    out.sources.push_back(std::move(source));
}

std::shared_ptr<Tensors> read_tensors(Napi::Env env, const Napi::Value& list) {
    if (!list.IsArray())
        throw_error(env, Status::error(Code::invalid_argument, "loadMasked: tensors must be an array"));
    auto tensors = std::make_shared<Tensors>();
    const Napi::Array array = list.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); ++i) {
        if (!array.Get(i).IsObject())
            throw_error(env, Status::error(Code::invalid_argument, "loadMasked: tensors[%u] is not an object", i));
        read_tensor(Arguments(array.Get(i).As<Napi::Object>(), "loadMasked"), *tensors);
    }
    return tensors;
}

class EngineHandle : public Napi::ObjectWrap<EngineHandle> {
 public:
    explicit EngineHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineHandle>(info) {
        const Arguments a(info, "createEngine");
        const std::string name = a.text("backend");
        const int threads = static_cast<int>(a.integer_or("threads", 0, 0, 1024));
        const auto limit = static_cast<size_t>(a.integer_or("queueLimit", 256, 1, 1 << 20));
        runtime_ = Runtime::create(info.Env(), name, threads, limit);
    }

    static Napi::Value define(Napi::Env env) {
        return DefineClass(
            env, "NativeEngine",
            {InstanceMethod("ready", &EngineHandle::ready), InstanceMethod("stats", &EngineHandle::stats),
             InstanceMethod("dispose", &EngineHandle::dispose),
             InstanceMethod("loadMasked", &EngineHandle::load_masked)});
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
        out.Set("waiting", static_cast<double>(runtime_->waiting()));
        out.Set("finished", static_cast<double>(runtime_->finished()));
        out.Set("weightBytes", static_cast<double>(runtime_->weight_bytes.load()));
        return out;
    }

    Napi::Value load_masked(const Napi::CallbackInfo& info) {
        if (info.Length() < 3)
            throw_error(info.Env(),
                        Status::error(Code::invalid_argument, "loadMasked: expected config, tensors, precision"));
        const MaskedConfig config = read_config(Arguments(info, "loadMasked"));
        const auto tensors = read_tensors(info.Env(), info[1]);
        Napi::Object options = Napi::Object::New(info.Env());
        options.Set("precision", info[2]);
        const auto precision =
            static_cast<Precision>(Arguments(options, "loadMasked").choice("precision", kPrecisions));
        auto model = std::make_shared<std::shared_ptr<MaskedModel>>();
        return runtime_->submit(
            info.Env(),
            {[=](Engine& engine, const std::atomic<bool>*) {
                 std::unique_ptr<MaskedModel> loaded;
                 NOEMA_TRY(MaskedModel::load(engine, config, tensors->sources, precision, loaded));
                 *model = std::move(loaded);
                 return Status{};
             },
             [=, runtime = runtime_](Napi::Env env) -> Napi::Value { return new_model(env, runtime, *model); },
             nullptr});
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
