#include <algorithm>
#include <vector>

#include "noema/backend.h"

namespace noema {

namespace {

/// Where the host has to look, it waits for the device: not after each round, for one that comes too many changes nothing.
constexpr int64_t kRoundsPerLook = 4;

Status repeat_on_device(const Repeat& repeat, const std::function<Status()>& round, Context& c) {
    NOEMA_TRY(c.backend->begin_repeat(repeat, c.stream));
    const Status ran = round();
    const Status ended = c.backend->end_repeat(repeat, ran.ok(), c.stream);
    return ran.ok() ? ended : ran;
}

}  // namespace

Status Context::repeat(Repeat repeat, const std::function<Status()>& round) {
    ArenaScope scope(*arena);
    if (backend->begin_repeat) repeat.round = arena->tensor(DType::i32, 1);
    if (arena->measuring() || replaying) return round();
    if (backend->begin_repeat) return repeat_on_device(repeat, round, *this);
    const int64_t per_look = backend->synchronize ? kRoundsPerLook : 1;
    std::vector<float> changes(repeat.change.shape[0]);
    for (int64_t i = 1; i <= repeat.most; ++i) {
        if (stream.is_cancelled())
            return Status::error(Code::aborted, "cancelled after %lld rounds", static_cast<long long>(i - 1));
        NOEMA_TRY(round());
        if (i % per_look != 0) continue;
        NOEMA_TRY(read(repeat.change, changes.data()));
        if (std::all_of(changes.begin(), changes.end(), [&](float x) { return x <= repeat.tolerance; })) break;
    }
    return {};
}

}  // namespace noema
