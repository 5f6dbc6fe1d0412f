#include "models/flow/faults.h"

#include <algorithm>
#include <cmath>

namespace noema {

namespace {

using ll = long long;

bool is_lost(double x) {
    return !(std::fabs(x) <= kLargestState);
}

/// The first position in the flow's order that is_bad(row) tells of, rows [B,N] in text order; B * N of them: none.
template <class IsBad>
int64_t first_row(const FlowShape& s, bool reverse, const IsBad& is_bad) {
    for (int64_t b = 0; b < s.B; ++b)
        for (int64_t n = 0; n < s.N; ++n) {
            const int64_t row = b * s.N + (reverse ? s.N - 1 - n : n);
            if (is_bad(row)) return row;
        }
    return s.rows();
}

/// Of a row in text order; flow -1: none.
FlowFault fault_of(const FlowShape& s, int64_t flow, int64_t row) {
    const int64_t position = s.m + row % s.N;
    return {flow, row / s.N, position, position};
}

}  // namespace

FlowFault fault_at(const FlowShape& s, size_t flow, int64_t sequence, int64_t first, int64_t last) {
    const bool reverse = s.config.flows[flow].reverse;
    return {static_cast<int64_t>(flow), sequence, s.m + (reverse ? s.N - 1 - last : first),
            s.m + (reverse ? s.N - 1 - first : last)};
}

Status check_state(const FlowShape& s, size_t flow, const double* state, const uint8_t* fixed,
                   std::optional<FlowFault>& fault) {
    const auto is_bad = [&](int64_t row) {
        const double* values = state + row * s.c();
        return (!fixed || fixed[row]) && std::any_of(values, values + s.c(), is_lost);
    };
    const int64_t row = first_row(s, s.config.flows[flow].reverse, is_bad);
    if (row == s.rows()) return {};
    fault = fault_of(s, static_cast<int64_t>(flow), row);
    const double* values = state + row * s.c();
    return Status::error(Code::non_finite,
                         "flow %zu: a state has %g at sequence %lld, position %lld, expected up to %g", flow,
                         *std::find_if(values, values + s.c(), is_lost), static_cast<ll>(fault->sequence),
                         static_cast<ll>(fault->first), kLargestState);
}

Status check_latents(const FlowShape& s, const double* state, const float* log_sum, std::optional<FlowFault>& fault) {
    const auto is_dark = [](float density) { return !(density >= kLeastLogDensity && std::isfinite(density)); };
    const auto is_bad = [&](int64_t row) {
        const double* values = state + row * s.c();
        const float* densities = log_sum + row * s.P();
        return std::any_of(values, values + s.c(), is_lost) || std::any_of(densities, densities + s.P(), is_dark);
    };
    const int64_t row = first_row(s, s.config.flows[0].reverse, is_bad);
    if (row == s.rows()) return {};
    if (const double* values = state + row * s.c(); std::any_of(values, values + s.c(), is_lost))
        return check_state(s, 0, state, nullptr, fault);
    fault = fault_of(s, 0, row);
    const float* densities = log_sum + row * s.P();
    return Status::error(Code::non_finite,
                         "flow 0: the latents of sequence %lld, position %lld are no token's: the codebook's log "
                         "density is %g there, expected at least %g",
                         static_cast<ll>(fault->sequence), static_cast<ll>(fault->first),
                         *std::find_if(densities, densities + s.P(), is_dark), kLeastLogDensity);
}

Status check_likelihoods(const FlowShape& s, int64_t flow, const std::vector<float>& values, const char* what,
                         std::optional<FlowFault>& fault) {
    const auto bad =
        std::find_if(values.begin(), values.end(), [](float nats) { return !(std::fabs(nats) <= kLargestState); });
    if (bad == values.end()) return {};
    fault = fault_of(s, flow, (bad - values.begin()) / (static_cast<int64_t>(values.size()) / s.rows()));
    char place[32] = "the codebook";
    if (flow >= 0) std::snprintf(place, sizeof place, "flow %lld", static_cast<ll>(flow));
    return Status::error(Code::non_finite, "%s: the %s is %g at sequence %lld, position %lld", place, what, *bad,
                         static_cast<ll>(fault->sequence), static_cast<ll>(fault->first));
}

Status check_log_sigma(Engine& engine, const std::string& name, const View& log_sigma) {
    std::vector<float> values(log_sigma.shape[0]);
    NOEMA_TRY(engine.execute([&](Context& c) {
        c.fetch(log_sigma, values.data());
        return Status{};
    }));
    for (size_t k = 0; k < values.size(); ++k)
        if (!std::isnormal(std::exp(values[k])) || !std::isnormal(std::exp(-values[k])))
            return Status::error(Code::non_finite, "tensor %s, entry %zu: %g makes a sigma of %g", name.c_str(), k,
                                 values[k], std::exp(values[k]));
    return {};
}

}  // namespace noema
