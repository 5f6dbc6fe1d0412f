#include <cstring>

#include "cpu/cpu.h"
#include "cpu/tasks.h"

namespace noema::cpu {

namespace {

Status run(const Scatter& p, const Stream& stream, Workspace) {
    const int64_t C = p.x.shape[1];
    const int32_t* rows = p.rows.as<int32_t>();
    parallel_rows(stream, p.x.shape[0], C, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r)
            if (rows[r] >= 0) std::memcpy(p.y.at<float>(rows[r]), p.x.at<float>(r), sizeof(float) * C);
    });
    return {};
}

}  // namespace

Op<Scatter> scatter_entry() {
    return {run, nullptr};
}

}  // namespace noema::cpu
