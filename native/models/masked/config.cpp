#include "models/masked/weights.h"

namespace noema {

namespace {

constexpr int64_t kLargest = int64_t{1} << 24;  // of any single size: keeps every product of two far from overflow

Status in_range(const char* name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return {};
    return Status::error(Code::bad_checkpoint, "config: %s is %lld, expected %lld to %lld", name,
                         static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high));
}

}  // namespace

Status MaskedConfig::validate() const {
    NOEMA_TRY(in_range("vocab_size", vocab_size, 2, kLargest));
    NOEMA_TRY(in_range("hidden_size", hidden_size, 1, kLargest));
    NOEMA_TRY(in_range("num_layers", num_layers, 1, 4096));
    NOEMA_TRY(in_range("num_heads", num_heads, 1, hidden_size));
    NOEMA_TRY(in_range("num_kv_heads", num_kv_heads, 1, num_heads));
    NOEMA_TRY(in_range("intermediate_size", intermediate_size, 1, kLargest));
    NOEMA_TRY(in_range("max_positions", max_positions, 1, kLargest));
    NOEMA_TRY(in_range("mask_token_id", mask_token_id, 0, vocab_size - 1));
    if (hidden_size % num_heads != 0 || head_width() % 2 != 0 || head_width() > kWidestHead)
        return Status::error(Code::bad_checkpoint,
                             "config: %lld channels do not split into %lld heads of even width up to %lld",
                             static_cast<long long>(hidden_size), static_cast<long long>(num_heads),
                             static_cast<long long>(kWidestHead));
    if (num_heads % num_kv_heads != 0)
        return Status::error(Code::bad_checkpoint, "config: num_kv_heads %lld does not divide num_heads %lld",
                             static_cast<long long>(num_kv_heads), static_cast<long long>(num_heads));
    if (!(rope_theta >= 1.0 && rope_theta <= 1e12))
        return Status::error(Code::bad_checkpoint, "config: rope_theta is %g, expected 1 to 1e12", rope_theta);
    if (!(rms_norm_eps > 0.0f && rms_norm_eps < 1.0f))
        return Status::error(Code::bad_checkpoint, "config: rms_norm_eps is %g, expected 0 to 1", rms_norm_eps);
    return {};
}

std::vector<TensorSpec> masked_tensors(const MaskedConfig& c) {
    const int64_t C = c.hidden_size, F = c.intermediate_size, kv = c.num_kv_heads * c.head_width();
    std::vector<TensorSpec> matrices{{"embed.weight", c.vocab_size, C}};
    std::vector<TensorSpec> vectors;
    for (int64_t i = 0; i < c.num_layers; ++i) {
        const std::string prefix = "layers." + std::to_string(i) + ".";
        matrices.push_back({prefix + "q.weight", C, C});
        matrices.push_back({prefix + "k.weight", kv, C});
        matrices.push_back({prefix + "v.weight", kv, C});
        matrices.push_back({prefix + "o.weight", C, C});
        matrices.push_back({prefix + "gate.weight", F, C});
        matrices.push_back({prefix + "up.weight", F, C});
        matrices.push_back({prefix + "down.weight", C, F});
        vectors.push_back({prefix + "attention_norm.weight", C, 0});
        vectors.push_back({prefix + "mlp_norm.weight", C, 0});
    }
    if (!c.tied_embeddings) matrices.push_back({"head.weight", c.vocab_size, C});
    vectors.push_back({"norm.weight", C, 0});
    matrices.insert(matrices.end(), vectors.begin(), vectors.end());
    return matrices;
}

}  // namespace noema
