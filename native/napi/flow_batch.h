// Batches of token sequences of the flow family, read from JavaScript.
#pragma once

#include "handle.h"

namespace noema::napi {

/// A batch whose arrays the job owns.
struct OwnedFlowBatch {
    std::vector<int32_t> ids;
    std::vector<float> noise;     // [B, T - prefix, d]
    std::vector<double> latents;  // [B, T - prefix, d]
    int64_t level = 0;            // of latents
    FlowBatch batch;

    FlowLatents source() const {
        return {noise.empty() ? nullptr : noise.data(), latents.empty() ? nullptr : latents.data(), level};
    }
};
/// Reads ids, batch, length, prefix, and exactly one of noise and latents; refuses sizes that do not agree.
std::shared_ptr<OwnedFlowBatch> read_flow_batch(const Arguments& arguments, const FlowConfig& config);

/// A fault as an error's details; empty where there is none.
Napi::Value fault_object(Napi::Env env, const std::optional<FlowFault>& fault);

/// A pass's arrays as JavaScript sees them.
Napi::Value pass_object(Napi::Env env, const FlowPass& pass);

}  // namespace noema::napi
