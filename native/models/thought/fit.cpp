// Fits as calls: what they refuse, how the engine runs them, and what is left of one that fails.
#include "models/thought/fast_loop.h"

namespace noema {

namespace {

Status check_task(const ThoughtConfig& config, const FitTask& task) {
    const FitOptions& o = task.options;
    const auto refuse = [](const char* what) { return Status::error(Code::invalid_argument, "fit: %s", what); };
    NOEMA_TRY(check_batch(config, task.batch));
    if (o.steps < 0 || o.steps > (1 << 20)) return refuse("expected 0 to 1048576 steps");
    const auto is_rate = [](double rate) { return rate >= 0 && std::isfinite(static_cast<float>(rate)); };
    if (!is_rate(o.rate.first) || !is_rate(o.rate.last)) return refuse("rates must be finite, and not below 0");
    if (task.progress_every < 1) return refuse("progress comes every 1 or more steps");
    if (!(o.tolerance >= 0)) return refuse("the tolerance may not be below 0");
    if (!(o.kl_weight >= 0 && o.kl_weight <= 1)) return refuse("the divergence's weight must be in [0, 1]");
    if (!std::isfinite(static_cast<float>(o.log_variance_init))) return refuse("log_variance_init must be finite");
    const FitStart& from = task.start;
    if (!from.seeds && !(from.mean && from.log_variance && from.draws))
        return refuse("without seeds mean, log-variance and draws must be given");
    return {};
}

/// Everything by which the work of one fit differs from that of another.
Recipe recipe_of(const ThoughtNetwork& network, const FitTask& task, const Course& course, bool learns) {
    const FitOptions& o = task.options;
    const FitStart& from = task.start;
    Recipe recipe(network.identity, task.batch.B, task.batch.T, o.steps, course.until, o.rate.first, o.rate.last,
                  o.rate.schedule, o.noise, o.constant_log_variance, o.kl_weight, o.score, from.seeds != nullptr,
                  from.mean != nullptr, from.log_variance != nullptr, from.draws != nullptr, learns);
    if (course.all_scored()) return recipe;
    for (const int64_t targets : course.scored) recipe.add(targets > 0);
    return recipe;
}

/// A device that recorded the loop said nothing on its way: the history tells.
Status check_history(const FitOptions& o, Course& course) {
    for (int64_t s = 0; s <= o.steps; ++s)
        for (int64_t b = 0; b < course.B; ++b) {
            const bool handed_on = s == o.steps;
            if (course.scored[b] == 0 || (s >= course.steps[b] && !handed_on)) continue;
            const float objective = course.cross_entropy[s * course.B + b] + course.kl[s * course.B + b];
            if (std::isfinite(objective)) continue;
            course.failed_step = handed_on ? course.steps[b] : s;
            return fit_failure(course.failed_step, b, objective);
        }
    return {};
}

/// The history by steps taken, and of the z handed on, where there is one.
std::vector<std::vector<float>> by_step(const std::vector<float>& flat, const Course& course) {
    const auto row = [&](int64_t s) {
        return std::vector<float>(flat.begin() + s * course.B, flat.begin() + (s + 1) * course.B);
    };
    std::vector<std::vector<float>> rows;
    const int64_t taken = *std::max_element(course.steps.begin(), course.steps.end());
    for (int64_t s = 0; s < taken; ++s) rows.push_back(row(s));
    if (!course.handed_over) rows.push_back(row(static_cast<int64_t>(flat.size()) / course.B - 1));
    return rows;
}

void make_room(const ThoughtConfig& config, const FitTask& task, Posterior& out) {
    const size_t size = static_cast<size_t>(task.batch.B * config.latent_size());
    for (std::vector<float>* v : {&out.mean, &out.log_variance, &out.z}) v->assign(size, 0.0f);
    FitTrace* trace = task.trace;
    if (!trace) return;
    const int64_t S = task.options.steps;
    trace->rates.clear();
    for (int64_t s = 0; s < S; ++s) trace->rates.push_back(task.options.rate.at(s, S));
    trace->mean.assign(S + 1, std::vector<float>(size));
    trace->log_variance = trace->mean;
    trace->mean_gradient.assign(size, 0.0f);
    trace->log_variance_gradient.assign(size, 0.0f);
}

/// Adam's first moment after one step is (1 - beta1) times the gradient.
void moments_to_gradients(FitTrace& trace) {
    const float share = 1.0f - PosteriorUpdate{}.beta1;
    for (std::vector<float>* v : {&trace.mean_gradient, &trace.log_variance_gradient})
        for (float& x : *v) x /= share;
}

/// A recording holds every launch of every step; of more steps than this it would take longer to make than it saves, and nobody could stop it.
constexpr int64_t kMostRecordedSteps = 128;

struct Attempt {
    Engine& engine;
    const ThoughtNetwork& network;
    const ThoughtGradients* trajectory;
    const std::atomic<bool>* cancelled;

    Status run(const FitTask& task, Course& course, Posterior& out) const {
        const FitOptions& o = task.options;
        make_room(network.config, task, out);
        const FitRun fit{network, task, trajectory, course};
        const auto body = [&](Context& c) { return run_fast_loop(fit, out, c); };
        const bool silent = o.tolerance == 0 && !task.progress && !task.trace && o.steps <= kMostRecordedSteps;
        Status status = o.repeated && silent
                            ? engine.execute(recipe_of(network, task, course, trajectory != nullptr), body, cancelled)
                            : engine.execute(body, cancelled);
        if (status.ok()) status = check_history(o, course);
        if (status.code == Code::aborted && !course.handed_over) {
            out = {};
            return status;
        }
        out.steps = course.steps;
        out.cross_entropy = by_step(course.cross_entropy, course);
        out.kl = by_step(course.kl, course);
        return status;
    }
};

}  // namespace

Status thought_fit(Engine& engine, const ThoughtNetwork& network, const FitTask& task,
                   const ThoughtGradients* trajectory, Posterior& out, const std::atomic<bool>* cancelled) {
    out = {};
    NOEMA_TRY(check_task(network.config, task));
    Course course(task, task.options.steps);
    const Status status = Attempt{engine, network, trajectory, cancelled}.run(task, course, out);
    if (status.ok() && task.trace) moments_to_gradients(*task.trace);
    if (status.code != Code::non_finite) return status;
    // The last posterior whose objective was finite, by the same steps again: the loop itself keeps no history.
    FitTask again = task;
    again.options.score = false;
    again.progress = nullptr;
    again.trace = nullptr;
    Course before(again, std::max<int64_t>(course.failed_step - 1, 0));
    const Status repeated = Attempt{engine, network, nullptr, cancelled}.run(again, before, out);
    if (!repeated.ok() && repeated.code != Code::non_finite) out = {};
    return status;
}

}  // namespace noema
