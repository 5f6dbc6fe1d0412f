// What the numbers of a flow have to be to mean something, and where in a text they are not.
#pragma once

#include "models/flow/weights.h"

namespace noema {

/// The largest scalar of a state. The bodies' norms add up squares in f32: those of 4096 channels are finite up to here.
constexpr double kLargestState = 0x1p57;
/// The least log density at which the codebook tells tokens apart: below it neighbouring values of f32 are more than a nat apart.
constexpr float kLeastLogDensity = -0x1p23f;

/// Positions first .. last of a sequence in a flow's order, where they stand in the text.
FlowFault fault_at(const FlowShape& shape, size_t flow, int64_t sequence, int64_t first, int64_t last);

/// non_finite if a scalar of state [B,N,c], in text order, is NaN, infinite or too large; names the first in the flow's order. `fixed` [B,N]
/// optional: only where it is set.
Status check_state(const FlowShape& shape, size_t flow, const double* state, const uint8_t* fixed,
                   std::optional<FlowFault>& fault);
/// The same of the latents that the codebook reads: log_sum [B,N,P] is its log density.
Status check_latents(const FlowShape& shape, const double* state, const float* log_sum,
                     std::optional<FlowFault>& fault);
/// Of likelihoods in text order, [B,N,w] of any w: `what` names them.
Status check_likelihoods(const FlowShape& shape, int64_t flow, const std::vector<float>& values, const char* what,
                         std::optional<FlowFault>& fault);

/// Refuses a table's log_sigma [K] whose sigma, or one over it, f32 does not hold.
Status check_log_sigma(Engine& engine, const std::string& name, const View& log_sigma);

}  // namespace noema
