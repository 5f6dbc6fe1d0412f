// What a worker of a long loop reads of the weights, in order, and asking for it before it is needed.
#pragma once

#include <algorithm>

#include "cpu/matmul_packing.h"

namespace noema::cpu {

/// Panels of one weight that a worker reads one after the other.
struct Stretch {
    const Weight* weight;
    Precision precision;
    int64_t first, panels;

    int64_t steps() const { return panel_steps(weight->view.shape[1], panel_packing(precision)); }
    int64_t panel_bytes() const { return steps() * kStepBytes; }
    const std::byte* data() const { return static_cast<const std::byte*>(weight->packed) + first * panel_bytes(); }
};

/// Whether so many bytes, read again and again, come from memory: more than three quarters of the processor's largest cache, which
/// holds other things, too.
bool beyond_caches(int64_t bytes);

/// Asks for the first lines of a stretch, a few whenever there is time, in the order in which they will be read. Until the first are
/// there the hardware does not know what to fetch.
class Ahead {
 public:
    Ahead() = default;
    Ahead(const Stretch& of, int64_t rows)
        : data_(of.data()),
          panel_bytes_(of.panel_bytes()),
          panels_(of.panels),
          depth_(std::min(kBlockSteps, of.steps())),
          streams_(rows <= 3 ? 8 : 2) {}

    void ask(int64_t lines) {
        for (; lines > 0 && left_ > 0 && panel_ < panels_; lines -= streams_, left_ -= streams_) {
            const int64_t n = std::min(streams_, panels_ - panel_);
            for (int64_t i = 0; i < n; ++i)
                __builtin_prefetch(data_ + (panel_ + i) * panel_bytes_ + step_ * kStepBytes, 0, 2);
            if (++step_ == depth_) step_ = 0, panel_ += streams_;
        }
    }

 private:
    static constexpr int64_t kLines = 1024;  // 64 KB of the second-level cache

    const std::byte* data_ = nullptr;
    int64_t panel_bytes_ = 0, panels_ = 0;
    int64_t depth_ = 0, streams_ = 1;  // as a kernel of so many rows goes through them
    int64_t panel_ = 0, step_ = 0, left_ = kLines;
};

}  // namespace noema::cpu
