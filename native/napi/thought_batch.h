// Batches of the thought family and the fits of their latents, read from JavaScript.
#pragma once

#include "handle.h"

namespace noema::napi {

/// A batch whose arrays the job owns.
struct OwnedThoughtBatch {
    std::vector<int32_t> ids, targets;
    ThoughtBatch batch;
};
/// Reads ids, batch, length and (optional) targets; refuses sizes that do not agree.
std::shared_ptr<OwnedThoughtBatch> read_thought_batch(const Arguments& arguments);

/// An array of so many times [B,N,C] values, or empty when it is not there.
std::vector<float> read_latents(const Arguments& arguments, const char* name, int64_t sequences,
                                const ThoughtConfig& config);
/// One seed per sequence, or empty.
std::vector<uint64_t> read_seeds(const Arguments& arguments, int64_t B);

/// A fit whose arrays the job owns, and what it gives back.
struct OwnedFit {
    std::shared_ptr<OwnedThoughtBatch> batch;
    std::vector<uint64_t> seeds;
    std::vector<float> mean, log_variance, draws;
    FitTask task;
    FitTrace trace;
    Posterior posterior;
};
/// Reads the fit's options, and seeds, mean, logVariance and draws; the batch was read before.
std::shared_ptr<OwnedFit> read_fit(const Arguments& arguments, std::shared_ptr<OwnedThoughtBatch> batch,
                                   const ThoughtConfig& config);
Napi::Value fit_object(Napi::Env env, const OwnedFit& fit);
/// The job of a fit: its result, and what is left of it on an error.
template <class Work>
Job fit_job(std::shared_ptr<OwnedFit> fit, const Arguments& arguments, Work work) {
    const auto value = [fit](Napi::Env env) { return fit_object(env, *fit); };
    return {work, value, arguments.cancellation(), value};
}

/// A bound's arrays the same way.
struct OwnedBound {
    std::shared_ptr<OwnedThoughtBatch> batch;
    std::vector<uint64_t> seeds;
    std::vector<float> mean, log_variance, draws;
    BoundTask task;
    Bound bound;
};
std::shared_ptr<OwnedBound> read_bound(const Arguments& arguments, const ThoughtConfig& config);
Napi::Value bound_object(Napi::Env env, const Bound& bound);

}  // namespace noema::napi
