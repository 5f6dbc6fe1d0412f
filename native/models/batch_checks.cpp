#include "models/batch_checks.h"

namespace noema {

Status check_batch_size(int64_t B, int64_t T, int64_t most) {
    if (B < 1 || T < 1)
        return Status::error(Code::invalid_argument, "a batch of %lld sequences of %lld positions is empty",
                             static_cast<long long>(B), static_cast<long long>(T));
    if (B > INT32_MAX / T)
        return Status::error(Code::invalid_argument, "%lld sequences of %lld positions are more rows than 2^31",
                             static_cast<long long>(B), static_cast<long long>(T));
    if (T > most)
        return Status::error(Code::prompt_too_long, "%lld positions exceed the model's %lld", static_cast<long long>(T),
                             static_cast<long long>(most));
    return {};
}

Status check_ids(const char* name, const int32_t* ids, int64_t n, int64_t V) {
    for (int64_t i = 0; i < n; ++i)
        if (ids[i] < 0 || ids[i] >= V)
            return Status::error(Code::invalid_argument, "%s[%lld] is %d, expected 0 to %lld", name,
                                 static_cast<long long>(i), ids[i], static_cast<long long>(V - 1));
    return {};
}

Status check_targets(const int32_t* targets, int64_t n, int64_t V) {
    for (int64_t r = 0; r < n; ++r)
        if (targets[r] >= V)
            return Status::error(Code::invalid_argument, "targets[%lld] is %d, expected at most %lld",
                                 static_cast<long long>(r), targets[r], static_cast<long long>(V - 1));
    return {};
}

}  // namespace noema
