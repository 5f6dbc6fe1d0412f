// The fast loop: a sequence's posterior by some steps of Adam on its own negative ELBO. Everything that does not depend on z is computed
// once; no gradient of a weight is formed; every step asks the host for nothing, unless it wants to know.
#include "models/thought/fast_loop.h"

namespace noema {

Status fit_failure(int64_t step, int64_t sequence, double objective) {
    return Status::error(Code::non_finite, "the fit's objective is %g at step %lld of sequence %lld", objective,
                         static_cast<long long>(step), static_cast<long long>(sequence));
}

namespace {

// Draws of the fit itself are 0 .. steps; those of its start come from the other end.
constexpr int64_t kMeanDraw = (int64_t{1} << 32) - 1, kLogVarianceDraw = kMeanDraw - 1;

/// One fit within one run of the engine: its tensors and its steps.
class FastLoop {
 public:
    FastLoop(const FitRun& run, Context& context)
        : network_(run.network),
          task_(run.task),
          o_(run.task.options),
          trajectory_(run.trajectory),
          course_(run.course),
          c_(context),
          s_(run.network.block(run.task.batch.B, run.task.batch.T)) {}

    Status run(Posterior& out) {
        NOEMA_TRY(open());
        NOEMA_TRY(draw(0, 0));
        for (int64_t s = 0; s < steps_to_walk() && course_.moves(); ++s) {
            const Status status = step(s);
            if (status.code == Code::aborted) NOEMA_TRY(hand_over(s, out));
            NOEMA_TRY(status);
        }
        // Who rests, or never moved, or stops short has not made the last draw.
        if (o_.tolerance > 0 || course_.until < o_.steps || !course_.all_scored())
            NOEMA_TRY(draw(last_draw(), o_.steps));
        if (o_.score && course_.any_scored()) NOEMA_TRY(evaluate(o_.steps, {}));
        return finish(out);
    }

 private:
    int64_t n() const { return network_.config.latent_size(); }
    View row(const View& m, int64_t i) const { return as_shape(rows_of(m, i, 1), {m.shape[1]}); }
    View room() { return c_.arena->tensor(DType::f32, s_.B, n()); }
    View given(const float* values, int64_t rows) {
        return c_.upload(view(const_cast<float*>(values), DType::f32, rows, n()));
    }
    View draw_rows(int64_t number) const { return draws_ ? rows_of(draws_, number * s_.B, s_.B) : eps_; }
    int64_t last_draw() const { return shared() ? 0 : o_.steps; }
    bool shared() const { return o_.noise == FitNoise::shared; }
    bool reports(int64_t s) const { return task_.progress && (s + 1) % task_.progress_every == 0; }
    /// On a processor it costs nothing to look at every step.
    bool watched(int64_t s) const { return !c_.transfers || (!c_.replaying && (o_.tolerance > 0 || reports(s))); }

    /// Where nothing travels between host and device on the way, a step needs the room of every other: measuring one will do.
    int64_t steps_to_walk() const {
        const bool travels = c_.transfers && (o_.tolerance > 0 || task_.trace);
        return c_.arena->measuring() && !travels ? std::min<int64_t>(course_.until, 1) : course_.until;
    }

    Status open();
    Status start();
    Status start_from(const float* values, double centre, double spread, int64_t number, const View& to);
    Status draw(int64_t number, int64_t place);
    Status step(int64_t s);
    Status evaluate(int64_t s, const View& d_z);
    Status look(int64_t s);
    Status update(int64_t s);
    void observe(int64_t s);
    Status hand_over(int64_t s, Posterior& out);
    Status finish(Posterior& out);

    const ThoughtNetwork& network_;
    const FitTask& task_;
    const FitOptions& o_;
    const ThoughtGradients* trajectory_;
    Course& course_;
    Context& c_;
    BlockShape s_;
    ThoughtActivations pass_;
    View ids_, targets_, losses_, seeds_, draws_, active_;
    View mean_, log_variance_, mean_m_, mean_v_, log_variance_m_, log_variance_v_, eps_, z_, d_z_;  // [B,N*C]
    View ce_, kl_;                                                                                  // [steps + 1,B]
    std::vector<float> objective_;                                                                  // [B]
};

Status FastLoop::open() {
    const ThoughtBatch& b = task_.batch;
    const FitStart& from = task_.start;
    ids_ = c_.upload(view(const_cast<int32_t*>(b.ids), DType::i32, s_.rows()));
    if (b.targets) targets_ = c_.upload(view(const_cast<int32_t*>(b.targets), DType::i32, s_.rows()));
    if (from.seeds) seeds_ = c_.upload(view(const_cast<uint64_t*>(from.seeds), DType::i64, b.B));
    if (from.draws) draws_ = given(from.draws, (shared() ? 1 : o_.steps + 1) * b.B);
    for (View* v : {&mean_, &log_variance_, &mean_m_, &mean_v_, &log_variance_m_, &log_variance_v_, &eps_, &z_, &d_z_})
        *v = room();
    losses_ = c_.arena->tensor(DType::f32, s_.rows());
    ce_ = c_.arena->tensor(DType::f32, o_.steps + 1, b.B);
    kl_ = c_.arena->tensor(DType::f32, o_.steps + 1, b.B);
    for (const View& v : {mean_m_, mean_v_, log_variance_m_, log_variance_v_, ce_, kl_}) NOEMA_TRY(c_.clear(v));
    NOEMA_TRY(start());
    if (!course_.all_scored()) active_ = c_.upload(view(course_.active.data(), DType::u8, b.B));
    if (!course_.any_scored()) return {};
    return lay_ground(network_, s_, ids_, Keep::everything, pass_, c_);
}

/// to = values, or centre + spread n of the seeds.
Status FastLoop::start_from(const float* values, double centre, double spread, int64_t number, const View& to) {
    if (values) return cast({.x = given(values, s_.B), .y = to}, c_);
    ArenaScope scope(*c_.arena);
    const std::vector<int32_t> same(s_.B, 0);
    const View first = c_.upload(view(const_cast<int32_t*>(same.data()), DType::i32, s_.B));
    const auto filled = [&](double value, const View& y) {
        const std::vector<float> row(n(), static_cast<float>(value));
        return embedding({.ids = first, .table = given(row.data(), 1), .y = y}, c_);
    };
    const View centres = room(), log_spreads = room();
    NOEMA_TRY(filled(centre, centres));
    NOEMA_TRY(filled(2 * std::log(spread), log_spreads));
    return posterior_update(
        {.mean = centres, .log_variance = log_spreads, .next_eps = eps_, .seeds = seeds_, .z = to, .draw = number}, c_);
}

Status FastLoop::start() {
    NOEMA_TRY(start_from(task_.start.mean, 0, 0.01, kMeanDraw, mean_));
    NOEMA_TRY(start_from(task_.start.log_variance, o_.log_variance_init, 0.1, kLogVarianceDraw, log_variance_));
    for (int64_t b = 0; b < s_.B; ++b) {
        if (course_.scored[b] > 0) continue;
        NOEMA_TRY(c_.clear(rows_of(mean_, b, 1)));  // the prior
        NOEMA_TRY(c_.clear(rows_of(log_variance_, b, 1)));
    }
    return {};
}

/// z of all sequences by a draw, from the posterior as it is; its divergence goes to a place of the history.
Status FastLoop::draw(int64_t number, int64_t place) {
    return posterior_update({.mean = mean_,
                             .log_variance = log_variance_,
                             .next_eps = draw_rows(number),
                             .seeds = draws_ ? View{} : seeds_,
                             .z = z_,
                             .kl = row(kl_, place),
                             .draw = number},
                            c_);
}

Status FastLoop::step(int64_t s) {
    if (c_.stream.is_cancelled()) return Status::error(Code::aborted, "the fit was cancelled after %d steps", int(s));
    observe(s);
    NOEMA_TRY(evaluate(s, d_z_));
    if (watched(s)) NOEMA_TRY(look(s));
    if (o_.tolerance > 0) active_ = c_.upload(view(course_.active.data(), DType::u8, s_.B));
    NOEMA_TRY(update(s));
    if (watched(s) && reports(s) && !c_.arena->measuring()) task_.progress(s + 1, objective_);
    return {};
}

/// Scores z; the place in the history is the step's. Forms d_z unless that is empty.
Status FastLoop::evaluate(int64_t s, const View& d_z) {
    ArenaScope scope(*c_.arena);
    const bool learns = trajectory_ && d_z;
    const View d_hidden = d_z ? c_.arena->tensor(DType::f32, s_.rows(), s_.C) : View{};
    NOEMA_TRY(forward_from_ground(network_, s_, z_, pass_, c_));
    NOEMA_TRY(score(network_, s_, pass_, {.targets = targets_, .losses = losses_, .sums = row(ce_, s)}, d_hidden,
                    learns ? trajectory_->head : View{}, c_));
    if (!d_z) return {};
    return thought_backward(network_, s_, pass_,
                            {.d_hidden = d_hidden, .d_z = d_z, .gradients = learns ? trajectory_ : nullptr}, c_);
}

/// What the host wants to know of a step before its update: is the objective a number, and does it still move?
Status FastLoop::look(int64_t s) {
    std::vector<float> ce(s_.B), kl(s_.B);
    NOEMA_TRY(c_.read(row(ce_, s), ce.data()));
    NOEMA_TRY(c_.read(row(kl_, s), kl.data()));
    if (c_.arena->measuring()) return {};
    objective_.resize(s_.B);
    for (int64_t b = 0; b < s_.B; ++b) {
        if (!course_.active[b]) continue;
        objective_[b] = ce[b] + kl[b];
        if (!std::isfinite(objective_[b])) {
            course_.failed_step = s;
            return fit_failure(s, b, objective_[b]);
        }
        const double tolerance = o_.tolerance * static_cast<double>(course_.scored[b]);
        if (o_.tolerance > 0 && course_.movement[b].at_rest(objective_[b], tolerance)) {
            course_.active[b] = 0;
            course_.steps[b] = static_cast<int32_t>(s);
        }
    }
    return {};
}

Status FastLoop::update(int64_t s) {
    PosteriorUpdate p{.mean = mean_,
                      .log_variance = log_variance_,
                      .d_z = d_z_,
                      .eps = draw_rows(shared() ? 0 : s),
                      .mean_m = mean_m_,
                      .mean_v = mean_v_,
                      .next_eps = draw_rows(shared() ? 0 : s + 1),
                      .active = active_,
                      .z = z_,
                      .kl = row(kl_, s + 1),
                      .draw = s + 1,
                      .step = s + 1,
                      .rate = static_cast<float>(o_.rate.at(s, o_.steps)),
                      .kl_weight = static_cast<float>(o_.kl_weight),
                      .constant_log_variance = o_.constant_log_variance};
    if (!o_.constant_log_variance) {
        p.log_variance_m = log_variance_m_;
        p.log_variance_v = log_variance_v_;
    }
    if (!draws_ && !shared()) p.seeds = seeds_;  // a shared draw stays where it is
    NOEMA_TRY(posterior_update(p, c_));
    if (!task_.trace || s > 0) return {};
    c_.fetch(mean_m_, task_.trace->mean_gradient.data());
    c_.fetch(log_variance_m_, task_.trace->log_variance_gradient.data());
    return {};
}

void FastLoop::observe(int64_t s) {
    if (!task_.trace) return;
    c_.fetch(mean_, task_.trace->mean[s].data());
    c_.fetch(log_variance_, task_.trace->log_variance[s].data());
}

/// What there is after `s` steps, of a fit that ends here.
Status FastLoop::hand_over(int64_t s, Posterior& out) {
    if (c_.arena->measuring()) return {};
    course_.handed_over = true;
    for (int32_t& steps : course_.steps) steps = std::min(steps, static_cast<int32_t>(s));
    NOEMA_TRY(c_.read(mean_, out.mean.data()));
    NOEMA_TRY(c_.read(log_variance_, out.log_variance.data()));
    NOEMA_TRY(c_.read(z_, out.z.data()));
    NOEMA_TRY(c_.read(ce_, course_.cross_entropy.data()));
    return c_.read(kl_, course_.kl.data());
}

Status FastLoop::finish(Posterior& out) {
    observe(o_.steps);
    c_.fetch(mean_, out.mean.data());
    c_.fetch(log_variance_, out.log_variance.data());
    c_.fetch(z_, out.z.data());
    c_.fetch(ce_, course_.cross_entropy.data());
    c_.fetch(kl_, course_.kl.data());
    return {};
}

}  // namespace

Status run_fast_loop(const FitRun& run, Posterior& out, Context& context) {
    return FastLoop(run, context).run(out);
}

}  // namespace noema
