// One fit of latents within one run of the engine, and what the host knows of it.
#pragma once

#include <algorithm>
#include <cmath>

#include "models/thought/weights.h"

namespace noema {

/// Whether a sequence still moves: the mean objective of one window of steps against that of the window before.
class Movement {
 public:
    bool at_rest(double objective, double tolerance) {
        seen_.push_back(objective);
        const auto n = static_cast<int64_t>(seen_.size());
        if (n < 2 * kFitWindow) return false;
        double change = 0;
        for (int64_t i = 0; i < kFitWindow; ++i) change += seen_[n - 1 - i] - seen_[n - 1 - kFitWindow - i];
        return std::fabs(change) / kFitWindow <= tolerance;
    }

 private:
    std::vector<double> seen_;
};

/// What the host knows of a fit, and how far it may go.
struct Course {
    Course(const FitTask& task, int64_t most) : B(task.batch.B), until(most), scored(B, 0), steps(B, 0), movement(B) {
        const ThoughtBatch& b = task.batch;
        for (int64_t r = 0; b.targets && r < B * b.T; ++r) scored[r / b.T] += b.targets[r] >= 0;
        for (int64_t i = 0; i < B; ++i) {
            active.push_back(scored[i] > 0);
            if (active[i]) steps[i] = static_cast<int32_t>(until);
        }
        const size_t history = static_cast<size_t>((task.options.steps + 1) * B);
        cross_entropy.resize(history);
        kl.resize(history);
    }
    bool moves() const { return std::find(active.begin(), active.end(), 1) != active.end(); }
    bool any_scored() const {
        return std::any_of(scored.begin(), scored.end(), [](int64_t n) { return n > 0; });
    }
    bool all_scored() const { return std::find(scored.begin(), scored.end(), 0) == scored.end(); }

    int64_t B, until;             // steps that may be taken
    std::vector<int64_t> scored;  // [B] targets
    std::vector<uint8_t> active;  // [B] has targets and is not at rest
    std::vector<int32_t> steps;   // [B] taken
    std::vector<Movement> movement;
    std::vector<float> cross_entropy, kl;  // [steps + 1,B]
    int64_t failed_step = -1;
    bool handed_over = false;  // something, before the end
};

Status fit_failure(int64_t step, int64_t sequence, double objective);

/// `trajectory`: where every step's weight gradients are added, or null.
struct FitRun {
    const ThoughtNetwork& network;
    const FitTask& task;
    const ThoughtGradients* trajectory;
    Course& course;
};
Status run_fast_loop(const FitRun& run, Posterior& out, Context& context);

}  // namespace noema
