// What the families refuse in batches of tokens before any work. Refusals name the argument, what was found and what was expected.
#pragma once

#include "noema/model.h"

namespace noema {

/// B sequences of T positions, of which there may be `most`.
Status check_batch_size(int64_t B, int64_t T, int64_t most);
/// Every id lies in [0, V).
Status check_ids(const char* name, const int32_t* ids, int64_t n, int64_t V);
/// No target lies above V - 1; negative ones are not scored.
Status check_targets(const int32_t* targets, int64_t n, int64_t V);

}  // namespace noema
