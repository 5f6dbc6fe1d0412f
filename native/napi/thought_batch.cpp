#include "thought_batch.h"

namespace noema::napi {

namespace {

constexpr const char* kSchedules[] = {"linear", "cosine", "constant", nullptr};
constexpr const char* kNoises[] = {"resample", "shared", nullptr};
constexpr int64_t kMost = int64_t{1} << 20;

template <class T>
const T* or_null(const std::vector<T>& values) {
    return values.empty() ? nullptr : values.data();
}

}  // namespace

std::shared_ptr<OwnedThoughtBatch> read_thought_batch(const Arguments& a) {
    constexpr int64_t most = int64_t{1} << 24;
    auto owned = std::make_shared<OwnedThoughtBatch>();
    ThoughtBatch& b = owned->batch;
    b.B = a.integer("batch", 1, most);
    b.T = a.integer("length", 1, most);
    const auto whole = [&](const char* name, const std::vector<int32_t>& values) {
        if (static_cast<int64_t>(values.size()) != b.B * b.T)
            a.refuse(name, "batch * length = " + std::to_string(b.B * b.T) + " entries");
    };
    owned->ids = a.ids("ids");
    whole("ids", owned->ids);
    b.ids = owned->ids.data();
    if (!a.has("targets")) return owned;
    owned->targets = a.ids("targets");
    whole("targets", owned->targets);
    b.targets = owned->targets.data();
    return owned;
}

std::vector<float> read_latents(const Arguments& a, const char* name, int64_t sequences, const ThoughtConfig& config) {
    std::vector<float> values = a.floats_or_empty(name);
    const int64_t size = sequences * config.latent_size();
    if (a.has(name) && static_cast<int64_t>(values.size()) != size) a.refuse(name, std::to_string(size) + " values");
    return values;
}

std::vector<uint64_t> read_seeds(const Arguments& a, int64_t B) {
    if (!a.has("seeds")) return {};
    std::vector<uint64_t> seeds = a.seeds("seeds");
    if (static_cast<int64_t>(seeds.size()) != B) a.refuse("seeds", "one per sequence, " + std::to_string(B));
    return seeds;
}

namespace {

FitOptions read_options(const Arguments& a) {
    FitOptions o;
    o.steps = a.integer("steps", 0, kMost);
    o.rate.first = a.number("firstRate");
    o.rate.last = a.number("lastRate");
    o.rate.schedule = static_cast<FitSchedule>(a.choice("schedule", kSchedules));
    o.noise = static_cast<FitNoise>(a.choice("noise", kNoises));
    o.log_variance_init = a.number("logVarianceInit");
    o.constant_log_variance = a.boolean_or("constantLogVariance", false);
    o.kl_weight = a.number_or("klWeight", 1);
    o.tolerance = a.number_or("tolerance", 0);
    o.score = a.boolean_or("score", false);
    o.repeated = a.boolean_or("repeated", false);
    return o;
}

}  // namespace

std::shared_ptr<OwnedFit> read_fit(const Arguments& a, std::shared_ptr<OwnedThoughtBatch> batch,
                                   const ThoughtConfig& config) {
    auto owned = std::make_shared<OwnedFit>();
    const int64_t B = batch->batch.B;
    FitTask& task = owned->task;
    task.batch = batch->batch;
    owned->batch = std::move(batch);
    task.options = read_options(a.object("fit"));
    const int64_t draws = task.options.noise == FitNoise::shared ? 1 : task.options.steps + 1;
    owned->seeds = read_seeds(a, B);
    owned->mean = read_latents(a, "mean", B, config);
    owned->log_variance = read_latents(a, "logVariance", B, config);
    owned->draws = read_latents(a, "draws", draws * B, config);
    task.start = {or_null(owned->seeds), or_null(owned->mean), or_null(owned->log_variance), or_null(owned->draws)};
    task.progress_every = a.integer_or("progressEvery", 1, 1, kMost);
    if (a.boolean_or("trace", false)) task.trace = &owned->trace;
    return owned;
}

Napi::Value fit_object(Napi::Env env, const OwnedFit& fit) {
    const Posterior& p = fit.posterior;
    Napi::Object out = Napi::Object::New(env);
    out.Set("mean", to_array(env, p.mean));
    out.Set("logVariance", to_array(env, p.log_variance));
    out.Set("z", to_array(env, p.z));
    out.Set("steps", to_array(env, p.steps));
    out.Set("crossEntropy", to_array(env, p.cross_entropy));
    out.Set("kl", to_array(env, p.kl));
    if (!fit.task.trace) return out;
    Napi::Object trace = Napi::Object::New(env);
    trace.Set("rates", to_array(env, fit.trace.rates));
    trace.Set("mean", to_array(env, fit.trace.mean));
    trace.Set("logVariance", to_array(env, fit.trace.log_variance));
    trace.Set("meanGradient", to_array(env, fit.trace.mean_gradient));
    trace.Set("logVarianceGradient", to_array(env, fit.trace.log_variance_gradient));
    out.Set("trace", trace);
    return out;
}

std::shared_ptr<OwnedBound> read_bound(const Arguments& a, const ThoughtConfig& config) {
    auto owned = std::make_shared<OwnedBound>();
    owned->batch = read_thought_batch(a);
    BoundTask& task = owned->task;
    task.batch = owned->batch->batch;
    task.K = a.integer("count", 1, kMost);
    owned->seeds = read_seeds(a, task.batch.B);
    owned->mean = read_latents(a, "mean", task.batch.B, config);
    owned->log_variance = read_latents(a, "logVariance", task.batch.B, config);
    owned->draws = read_latents(a, "draws", task.K * task.batch.B, config);
    task.mean = or_null(owned->mean);
    task.log_variance = or_null(owned->log_variance);
    task.seeds = or_null(owned->seeds);
    task.draws = or_null(owned->draws);
    return owned;
}

Napi::Value bound_object(Napi::Env env, const Bound& bound) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("crossEntropy", to_array(env, bound.cross_entropy));
    out.Set("logWeight", to_array(env, bound.log_weight));
    out.Set("kl", to_array(env, bound.kl));
    out.Set("nelbo", to_array(env, bound.nelbo));
    out.Set("nelboSampled", to_array(env, bound.nelbo_sampled));
    out.Set("iwae", to_array(env, bound.iwae));
    return out;
}

}  // namespace noema::napi
