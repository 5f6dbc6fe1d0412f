#include <cmath>

#include "models/config_checks.h"
#include "models/layers/block_roles.h"
#include "noema/thought_model.h"

namespace noema {

Status ThoughtConfig::validate() const {
    NOEMA_TRY(config_in_range("vocab_size", vocab_size, 2, kLargestSize));
    NOEMA_TRY(config_in_range("num_layers", num_layers, 1, 4096));
    NOEMA_TRY(config_in_range("max_positions", max_positions, 1, kLargestSize));
    NOEMA_TRY(config_in_range("attention_window", attention_window, 1, kLargestSize));
    NOEMA_TRY(config_in_range("num_latents", num_latents, num_layers, num_layers * kMostLatents));
    if (num_latents % num_layers != 0)
        return Status::error(Code::bad_checkpoint, "config: num_latents %lld is no multiple of num_layers %lld",
                             static_cast<long long>(num_latents), static_cast<long long>(num_layers));
    return validate_block_config({hidden_size, num_heads, num_heads, intermediate_size, rope_theta, rms_norm_eps});
}

std::vector<TensorSpec> thought_tensors(const ThoughtConfig& c) {
    const int64_t C = c.hidden_size;
    constexpr TensorUse product = TensorUse::product, table = TensorUse::table;
    std::vector<TensorSpec> matrices{{"embed.weight", c.vocab_size, C, c.tied_embeddings ? product : table}}, vectors;
    add_block_tensors("", {c.num_layers, C, C, c.intermediate_size}, matrices, vectors);
    add_cross_tensors(c.num_layers, C, c.latents_per_layer(), matrices, vectors);
    if (!c.tied_embeddings) matrices.push_back({"head.weight", c.vocab_size, C, product});
    vectors.push_back({"norm.weight", C});
    matrices.insert(matrices.end(), vectors.begin(), vectors.end());
    return matrices;
}

double FitRate::at(int64_t step, int64_t steps) const {
    const double s = static_cast<double>(step), S = static_cast<double>(steps);
    switch (schedule) {
        case FitSchedule::linear: return steps > 1 ? first + (last - first) * s / (S - 1) : first;
        case FitSchedule::cosine: return last * (0.1 + 0.45 * (1 + std::cos(M_PI * s / S)));
        case FitSchedule::constant: break;
    }
    return first;
}

}  // namespace noema
