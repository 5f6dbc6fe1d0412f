#include "models/config_checks.h"

namespace noema {

Status config_in_range(const char* name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return {};
    return Status::error(Code::bad_checkpoint, "config: %s is %lld, expected %lld to %lld", name,
                         static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high));
}

Status validate_block_config(const BlockConfig& c) {
    NOEMA_TRY(config_in_range("hidden_size", c.hidden_size, 1, kLargestSize));
    NOEMA_TRY(config_in_range("num_heads", c.num_heads, 1, c.hidden_size));
    NOEMA_TRY(config_in_range("num_kv_heads", c.num_kv_heads, 1, c.num_heads));
    NOEMA_TRY(config_in_range("intermediate_size", c.intermediate_size, 1, kLargestSize));
    const int64_t width = c.hidden_size / c.num_heads;
    if (c.hidden_size % c.num_heads != 0 || width % 2 != 0 || width > kWidestHead)
        return Status::error(Code::bad_checkpoint,
                             "config: %lld channels do not split into %lld heads of even width up to %lld",
                             static_cast<long long>(c.hidden_size), static_cast<long long>(c.num_heads),
                             static_cast<long long>(kWidestHead));
    if (c.num_heads % c.num_kv_heads != 0)
        return Status::error(Code::bad_checkpoint, "config: num_kv_heads %lld does not divide num_heads %lld",
                             static_cast<long long>(c.num_kv_heads), static_cast<long long>(c.num_heads));
    if (!(c.rope_theta >= 1.0 && c.rope_theta <= 1e12))
        return Status::error(Code::bad_checkpoint, "config: rope_theta is %g, expected 1 to 1e12", c.rope_theta);
    if (!(c.rms_norm_eps > 0.0f && c.rms_norm_eps < 1.0f))
        return Status::error(Code::bad_checkpoint, "config: rms_norm_eps is %g, expected 0 to 1", c.rms_norm_eps);
    return {};
}

}  // namespace noema
