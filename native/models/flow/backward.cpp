// forward.cpp for training, then the same lines from bottom to top. Gradients of
//
//   sum over positions of weight * (log_sum - sum_{l < L-1} log_det_l - log_density_{L-1})
//
// the telescoped NELBO, in which log q(z|x) and the last flow's base density have cancelled (tarflowlm.md section 1); or of its mixture
// with those of the stack's beginnings.
#include "models/flow/weights.h"
#include "models/views.h"

namespace noema {

namespace {

/// -scale * weights, of every unit of a flow in its own order; none where the scale is 0.
std::vector<float> by_unit(const FlowShape& s, const FlowStage& stage, const float* weights, float scale) {
    const int64_t units = stage.kind == FlowKind::mixture_rosenblatt ? s.P() : 1;
    std::vector<float> values;
    if (scale == 0) return values;
    for (int64_t i = 0; i < s.rows() * units; ++i) {
        const int64_t row = i / units, n = row % s.N;
        values.push_back(-scale * weights[stage.reverse ? row - n + s.N - 1 - n : row]);
    }
    return values;
}

}  // namespace

FlowLesson::FlowLesson(const FlowShape& s, const FlowBatch& batch, const FlowLatents& latents,
                       const FlowObjective& objective)
    : tokens(batch), noise(latents.noise) {
    const float extra = objective.reconstruction - 1.0f;
    for (int64_t i = 0; i < s.tokens(); ++i) {
        const float weight = objective.weights[i / s.P()];
        log_sum.push_back(objective.reconstruction * weight);
        // (reconstruction - 1) (-log N_x(z)), and log N_x(z) = -|eps|² / 2 - d log_sigma_x + constant.
        log_sigma.push_back(extra * static_cast<float>(s.d()) * weight);
    }
    const size_t L = s.config.flows.size(), beginnings = L - 1;
    const float share = beginnings ? objective.beginnings : 0.0f;
    // The log-determinant of a flow counts in all that go on after it, its density where it is the last.
    for (size_t l = 0; l < L; ++l) {
        const float ends = l == beginnings ? 1 - share : share / static_cast<float>(beginnings);
        const float goes_on =
            1 - share * static_cast<float>(l + 1) / static_cast<float>(std::max<size_t>(1, beginnings));
        log_density.push_back(by_unit(s, s.config.flows[l], objective.weights, ends));
        log_det.push_back(by_unit(s, s.config.flows[l], objective.weights, l == beginnings ? 0 : goes_on));
    }
}

namespace {

class Gradients {
 public:
    Gradients(const FlowShape& s, const FlowWeights& w, const FlowGradients& g, size_t stage, Context& c)
        : s_(s), w_(w), g_(g), stage_(stage), c_(c) {}

    Status forward(FlowLesson& lesson, FlowPass& out);
    Status backward(FlowLesson& lesson);

 private:
    size_t L() const { return w_.flows.size(); }
    View rows(int64_t width) const { return c_.arena->tensor(DType::f32, s_.rows(), width); }
    View text(const View& h) const { return by_sequence(h, s_.B); }
    View as_tokens(const View& h) const { return as_shape(h, {s_.tokens(), s_.d()}); }
    View upload(std::vector<float>& values) const {
        return c_.upload(view(values.data(), DType::f32, static_cast<int64_t>(values.size())));
    }
    Status encode(FlowLesson& lesson, FlowPass& out);
    Status step(size_t l, const View& h, FlowPass& out);
    Status step_backward(size_t l, const View& d_h, FlowLesson& lesson);
    Status codebook_backward(const View& d_z, FlowLesson& lesson);

    const FlowShape& s_;
    const FlowWeights& w_;
    const FlowGradients& g_;
    const size_t stage_;
    Context& c_;
    View suffix_, before_, noise_, z_, log_sum_, prefix_, d_prefix_;
    std::vector<StageActivations> kept_;  // of frozen flows without blocks
    std::vector<View> u_;                 // in the flows' own orders; not of the last
};

Status Gradients::encode(FlowLesson& lesson, FlowPass& out) {
    suffix_ = c_.upload(view(lesson.tokens.suffix.data(), DType::i32, s_.tokens()));
    noise_ = c_.upload(view(const_cast<float*>(lesson.noise), DType::f32, s_.tokens(), s_.d()));
    z_ = rows(s_.c());
    log_sum_ = c_.arena->tensor(DType::f32, s_.tokens());
    NOEMA_TRY(codebook_encode(
        {.ids = suffix_, .mean = w_.mean, .log_sigma = w_.log_sigma, .eps = noise_, .z = as_tokens(z_)}, c_));
    NOEMA_TRY(
        codebook_decode({.z = as_tokens(z_), .mean = w_.mean, .log_sigma = w_.log_sigma, .log_sum = log_sum_}, c_));
    c_.fetch(log_sum_, out.log_sum.data());
    if (!s_.m) return {};
    before_ = c_.upload(view(lesson.tokens.prefix.data(), DType::i32, s_.B * s_.m * s_.P()));
    return prefix_means(s_, before_, w_.mean, prefix_, c_);
}

/// h^(l) -> h^(l+1), in place.
Status Gradients::step(size_t l, const View& h, FlowPass& out) {
    const bool reverse = s_.config.flows[l].reverse;
    const StageActivations& a = kept_[l];
    const Coupling coupling = coupling_of(s_.config, w_, l);
    NOEMA_TRY(reorder({.x = text(h), .y = text(a.ordered), .reverse = reverse}, c_));
    NOEMA_TRY(reorder({.x = text(h), .first = w_.flows[l].start, .y = text(a.shifted), .reverse = reverse}, c_));
    if (l >= stage_)
        NOEMA_TRY(body_forward_keeping(s_, w_.flows[l], prefix_, a, c_));
    else
        NOEMA_TRY(body_forward(s_, w_.flows[l], a.shifted, prefix_, a.g, c_));

    ArenaScope scope(*c_.arena);
    const int64_t units = s_.rows() * coupling.units();
    const CouplingOutput result{.u = u_[l],
                                .log_density = c_.arena->tensor(DType::f32, units),
                                .log_det = u_[l] ? c_.arena->tensor(DType::f32, units) : View{}};
    NOEMA_TRY(couple(coupling, a.g, a.ordered, result, c_));
    c_.fetch(result.log_density, out.log_density[l].data());
    if (!u_[l]) return {};
    c_.fetch(result.log_det, out.log_det[l].data());
    return reorder({.x = text(u_[l]), .y = text(h), .channels = mixing(s_, l), .reverse = reverse}, c_);
}

Status Gradients::forward(FlowLesson& lesson, FlowPass& out) {
    NOEMA_TRY(encode(lesson, out));
    const View h = rows(s_.c());
    NOEMA_TRY(cast({.x = z_, .y = h}, c_));
    for (size_t l = 0; l < L(); ++l) {
        StageActivations a;
        if (l >= stage_)
            a = keep_activations(s_, s_.config.flows[l], *c_.arena);
        else
            a.ordered = rows(s_.c()), a.shifted = rows(s_.c()), a.g = rows(s_.C());
        kept_.push_back(a);
        u_.push_back(l + 1 < L() ? rows(s_.c()) : View{});
        NOEMA_TRY(step(l, h, out));
    }
    return {};
}

/// d_h [B*N,c]: the gradient of h^(l+1) in text order on entry (of the last flow: not looked at), of h^(l) on return.
Status Gradients::step_backward(size_t l, const View& d_h, FlowLesson& lesson) {
    ArenaScope scope(*c_.arena);
    const bool reverse = s_.config.flows[l].reverse, last = l + 1 == L(), tied = !w_.flows[l].mean;
    const StageActivations& a = kept_[l];
    const View d_ordered = rows(s_.c()), d_shifted = rows(s_.c()), d_g = rows(s_.C());

    // h^(l+1) = text order of u; the last flow's u is never formed.
    CouplingGradients d{.g = d_g, .h = d_ordered};
    if (!last) {
        d.upstream.u = rows(s_.c());
        NOEMA_TRY(reorder_backward(
            {.d_y = text(d_h), .d_x = text(d.upstream.u), .channels = mixing(s_, l), .reverse = reverse}, c_));
    }
    if (!lesson.log_density[l].empty()) d.upstream.log_density = upload(lesson.log_density[l]);
    if (!lesson.log_det[l].empty()) d.upstream.log_det = upload(lesson.log_det[l]);

    // u, likelihood = coupling(ordered; head(g))
    const bool table = s_.config.flows[l].kind == FlowKind::mixture_rosenblatt && (!tied || stage_ == 0);
    if (table) {
        d.mean = tied ? g_.mean : g_.flows[l].mean;
        d.log_sigma = tied ? g_.log_sigma : g_.flows[l].log_sigma;
    }
    NOEMA_TRY(couple_backward(coupling_of(s_.config, w_, l), a.g, a.ordered, g_.flows[l], d, c_));

    // g = body(shifted)
    NOEMA_TRY(body_backward(s_, w_.flows[l], a, g_.flows[l], prefix_, {d_g, d_shifted, d_prefix_}, c_));

    // shifted = [start, h one late], ordered = h, both in the flow's order
    NOEMA_TRY(reorder_backward(
        {.d_y = text(d_shifted), .d_x = text(d_h), .d_first = g_.flows[l].start, .reverse = reverse}, c_));
    return reorder_backward({.d_y = text(d_ordered), .d_x = text(d_h), .reverse = reverse, .accumulate_x = true}, c_);
}

Status Gradients::codebook_backward(const View& d_z, FlowLesson& lesson) {
    // log_sum = log sum_k N_k(z)
    NOEMA_TRY(codebook_decode_backward({.z = as_tokens(z_),
                                        .mean = w_.mean,
                                        .log_sigma = w_.log_sigma,
                                        .log_sum = log_sum_,
                                        .d_log_sum = upload(lesson.log_sum),
                                        .d_z = as_tokens(d_z),
                                        .d_mean = g_.mean,
                                        .d_log_sigma = g_.log_sigma,
                                        .accumulate_z = true},
                                       c_));
    const auto column = [](const View& v) { return as_shape(v, {v.shape[0], 1}); };
    NOEMA_TRY(embedding_backward(
        {.ids = suffix_, .d_y = column(upload(lesson.log_sigma)), .d_table = column(g_.log_sigma)}, c_));

    // z = mean[x] + sigma[x] eps; the prefix's means are looked up as well.
    NOEMA_TRY(codebook_encode_backward({.ids = suffix_,
                                        .log_sigma = w_.log_sigma,
                                        .eps = noise_,
                                        .d_z = as_tokens(d_z),
                                        .d_mean = g_.mean,
                                        .d_log_sigma = g_.log_sigma},
                                       c_));
    if (!s_.m) return {};
    const int64_t before = s_.B * s_.m * s_.P();
    const View d_means = as_shape(d_prefix_, {before, s_.d()});
    return embedding_backward({.ids = before_, .d_y = d_means, .d_table = g_.mean}, c_);
}

Status Gradients::backward(FlowLesson& lesson) {
    const View d_h = rows(s_.c());
    if (s_.m && stage_ == 0) {
        d_prefix_ = c_.arena->tensor(DType::f32, s_.B * s_.m, s_.c());
        NOEMA_TRY(c_.clear(d_prefix_));
    }
    for (size_t l = L(); l-- > stage_;) NOEMA_TRY(step_backward(l, d_h, lesson));
    return stage_ == 0 ? codebook_backward(d_h, lesson) : Status{};
}

}  // namespace

Status flow_gradients(const FlowShape& shape, const FlowWeights& w, const FlowGradients& g, FlowLesson& lesson,
                      size_t stage, FlowPass& out, Context& c) {
    ArenaScope scope(*c.arena);
    Gradients pass(shape, w, g, stage, c);
    NOEMA_TRY(pass.forward(lesson, out));
    return pass.backward(lesson);
}

}  // namespace noema
