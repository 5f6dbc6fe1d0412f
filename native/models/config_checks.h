// Checks that the families' configurations share. Refusals name key, found and expected.
#pragma once

#include "noema/model.h"

namespace noema {

constexpr int64_t kLargestSize = int64_t{1} << 24;  // of any single size: keeps every product of two far from overflow

Status config_in_range(const char* name, int64_t value, int64_t low, int64_t high);

struct BlockConfig {
    int64_t hidden_size, num_heads, num_kv_heads, intermediate_size;
    double rope_theta;
    float rms_norm_eps;
};
Status validate_block_config(const BlockConfig& config);

}  // namespace noema
