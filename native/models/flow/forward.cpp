// A whole stack from data to noise, every position at once.
#include <algorithm>

#include "models/flow/faults.h"
#include "models/views.h"

namespace noema {

FlowShape shape_of(const FlowConfig& c, const FlowBatch& b, Precision precision) {
    const int64_t m = b.prefix / c.patch_size;
    return {c, precision, b.B, m, b.T / c.patch_size - m};
}

namespace {

using ll = long long;

Status check_ids(const FlowConfig& c, const FlowBatch& b, int64_t most) {
    for (int64_t i = 0; i < b.B * b.T; ++i) {
        if (i % b.T >= most || (b.ids[i] >= 0 && b.ids[i] < c.vocab_size)) continue;
        return Status::error(Code::invalid_argument, "ids[%lld] is %d, expected 0 to %lld", static_cast<ll>(i),
                             b.ids[i], static_cast<ll>(c.vocab_size - 1));
    }
    return {};
}

}  // namespace

Status check_batch(const FlowConfig& c, const FlowBatch& b, bool whole) {
    const auto refuse = [](const char* text, int64_t x, int64_t y) {
        return Status::error(Code::invalid_argument, text, static_cast<ll>(x), static_cast<ll>(y));
    };
    if (b.B < 1 || b.T < 1) return refuse("a batch of %lld sequences of %lld tokens is empty", b.B, b.T);
    if (b.B > INT32_MAX / b.T) return refuse("%lld sequences of %lld tokens are more rows than 2^31", b.B, b.T);
    if (b.T % c.patch_size != 0)
        return refuse("%lld tokens are no multiple of the patch size, %lld", b.T, c.patch_size);
    if (b.prefix % c.patch_size != 0)
        return refuse("a prefix of %lld tokens is no multiple of the patch size, %lld", b.prefix, c.patch_size);
    if (b.prefix < 0 || b.prefix >= b.T)
        return refuse("a prefix of %lld tokens leaves nothing of %lld to model", b.prefix, b.T);
    if (b.prefix > 0 && !c.prefix_conditioning)
        return Status::error(Code::unsupported,
                             "the model was not trained for prefixes (prefix_conditioning is false)");
    if (b.T / c.patch_size > c.max_positions)
        return Status::error(Code::prompt_too_long, "%lld tokens in patches of %lld exceed the model's %lld positions",
                             static_cast<ll>(b.T), static_cast<ll>(c.patch_size), static_cast<ll>(c.max_positions));
    return check_ids(c, b, whole ? b.T : b.prefix);
}

FlowTokens::FlowTokens(const FlowBatch& b) {
    for (int64_t i = 0; i < b.B; ++i) {
        const int32_t* row = b.ids + i * b.T;
        prefix.insert(prefix.end(), row, row + b.prefix);
        suffix.insert(suffix.end(), row + b.prefix, row + b.T);
    }
}

Status prefix_means(const FlowShape& s, const View& ids, const View& mean, View& out, Context& c) {
    if (!s.m) return {};
    const View tokens = c.arena->tensor(DType::f32, s.B * s.m * s.P(), s.d());
    out = as_shape(tokens, {s.B * s.m, s.c()});
    return embedding({.ids = ids, .table = mean, .y = tokens}, c);
}

/// From a flow's own order to the next flow's input, and back (the same positions, channels undone).
ChannelOrder mixing(const FlowShape& s, size_t flow) {
    return s.config.channel_mix && flow + 1 < s.config.flows.size() ? ChannelOrder::even_odd : ChannelOrder::as_is;
}

Status first_state(const FlowShape& s, const FlowWeights& w, const FlowLatents& latents, FlowTokens& tokens,
                   const View& z, Context& c) {
    if (latents.given) {
        const View given = view(const_cast<double*>(latents.given), DType::f64, s.tokens(), s.d());
        return cast({.x = c.upload(given), .y = z}, c);
    }
    const View noise = view(const_cast<float*>(latents.noise), DType::f32, s.tokens(), s.d());
    const View ids = c.upload(view(tokens.suffix.data(), DType::i32, s.tokens()));
    return codebook_encode({.ids = ids, .mean = w.mean, .log_sigma = w.log_sigma, .eps = c.upload(noise), .z = z}, c);
}

namespace {

class Encoder {
 public:
    Encoder(const FlowShape& s, const FlowWeights& w, FlowPass& out, Context& c) : s_(s), w_(w), out_(out), c_(c) {}

    Status run(const FlowLatents& latents, FlowTokens& tokens) {
        const View h = c_.arena->tensor(DType::f32, s_.rows(), s_.c());
        if (s_.m) {
            const View before = c_.upload(view(tokens.prefix.data(), DType::i32, s_.B * s_.m * s_.P()));
            NOEMA_TRY(prefix_means(s_, before, w_.mean, prefix_, c_));
        }
        NOEMA_TRY(start(latents, tokens, h));
        const size_t first = static_cast<size_t>(latents.level);
        fetch_state(first, h);
        for (size_t l = first; l < w_.flows.size(); ++l) NOEMA_TRY(step(l, h));
        return {};
    }

 private:
    Status start(const FlowLatents& latents, FlowTokens& tokens, const View& h) {
        const View z = as_shape(h, {s_.tokens(), s_.d()});
        NOEMA_TRY(first_state(s_, w_, latents, tokens, z, c_));
        if (latents.level > 0) return {};
        const View log_sum = c_.arena->tensor(DType::f32, s_.tokens());
        NOEMA_TRY(codebook_decode({.z = z, .mean = w_.mean, .log_sigma = w_.log_sigma, .log_sum = log_sum}, c_));
        c_.fetch(log_sum, out_.log_sum.data());
        return {};
    }

    /// h^(l) -> h^(l+1), in place.
    Status step(size_t l, const View& h) {
        ArenaScope scope(*c_.arena);
        const FlowStage& stage = s_.config.flows[l];
        const Coupling coupling = coupling_of(s_.config, w_, l);
        const auto rows = [&](int64_t width) { return c_.arena->tensor(DType::f32, s_.rows(), width); };
        const View ordered = rows(s_.c()), shifted = rows(s_.c()), g = rows(s_.C());
        const View text = by_sequence(h, s_.B);
        NOEMA_TRY(reorder({.x = text, .y = by_sequence(ordered, s_.B), .reverse = stage.reverse}, c_));
        NOEMA_TRY(reorder(
            {.x = text, .first = w_.flows[l].start, .y = by_sequence(shifted, s_.B), .reverse = stage.reverse}, c_));
        NOEMA_TRY(body_forward(s_, w_.flows[l], shifted, prefix_, g, c_));

        const bool last = l + 1 == w_.flows.size(), whole = !last || out_.keep_states;
        const int64_t units = s_.rows() * coupling.units();
        CouplingOutput out{.log_density = c_.arena->tensor(DType::f32, units)};
        if (whole) out.u = rows(s_.c()), out.log_det = c_.arena->tensor(DType::f32, units);
        NOEMA_TRY(couple(coupling, g, ordered, out, c_));
        c_.fetch(out.log_density, out_.log_density[l].data());
        if (!whole) return {};
        c_.fetch(out.log_det, out_.log_det[l].data());
        NOEMA_TRY(reorder(
            {.x = by_sequence(out.u, s_.B), .y = text, .channels = mixing(s_, l), .reverse = stage.reverse}, c_));
        fetch_state(l + 1, h);
        return {};
    }

    void fetch_state(size_t l, const View& h) {
        if (out_.keep_states) c_.fetch(h, out_.states[l].data());
    }

    const FlowShape& s_;
    const FlowWeights& w_;
    FlowPass& out_;
    Context& c_;
    View prefix_;
};

}  // namespace

void make_room(const FlowShape& s, size_t first, FlowPass& pass) {
    const size_t L = s.config.flows.size();
    pass.log_density.assign(L, {});
    pass.log_det.assign(L, {});
    pass.states.assign(pass.keep_states ? L + 1 : 0, {});
    for (size_t l = first; l < L; ++l) {
        const int64_t units = s.config.flows[l].kind == FlowKind::mixture_rosenblatt ? s.P() : 1;
        pass.log_density[l].resize(s.rows() * units);
        if (l + 1 < L || pass.keep_states) pass.log_det[l].resize(s.rows() * units);
    }
    for (size_t l = first; l < pass.states.size(); ++l) pass.states[l].resize(s.rows() * s.c());
    pass.log_sum.resize(first == 0 ? s.tokens() : 0);
}

namespace {

/// From rows in a flow's own order, perhaps several per position, to one number per position in text order.
void to_text_order(const FlowShape& s, bool reverse, std::vector<float>& values) {
    if (values.empty()) return;
    const int64_t units = static_cast<int64_t>(values.size()) / s.rows();
    std::vector<float> sums(s.rows());
    for (int64_t b = 0; b < s.B; ++b)
        for (int64_t n = 0; n < s.N; ++n) {
            const float* from = values.data() + (b * s.N + (reverse ? s.N - 1 - n : n)) * units;
            double sum = 0;
            for (int64_t i = 0; i < units; ++i) sum += from[i];
            sums[b * s.N + n] = static_cast<float>(sum);
        }
    values = std::move(sums);
}

}  // namespace

void telescope(const FlowShape& s, FlowPass& pass) {
    const size_t L = s.config.flows.size();
    for (size_t l = 0; l < L; ++l) {
        to_text_order(s, s.config.flows[l].reverse, pass.log_density[l]);
        to_text_order(s, s.config.flows[l].reverse, pass.log_det[l]);
    }
    pass.nelbo.resize(pass.log_sum.empty() ? 0 : s.rows());
    for (int64_t r = 0; r < static_cast<int64_t>(pass.nelbo.size()); ++r) {
        double sum = 0;
        for (int64_t p = 0; p < s.P(); ++p) sum += pass.log_sum[r * s.P() + p];
        for (size_t l = 0; l + 1 < L; ++l) sum -= pass.log_det[l][r];
        pass.nelbo[r] = static_cast<float>(sum - pass.log_density[L - 1][r]);
    }
}

Status check_pass(const FlowConfig& config, const FlowBatch& batch, const FlowLatents& latents) {
    NOEMA_TRY(check_batch(config, batch, latents.noise != nullptr));
    if (latents.level >= 0 && latents.level < static_cast<int64_t>(config.flows.size()) &&
        (latents.level == 0 || latents.given))
        return {};
    return Status::error(Code::invalid_argument, "a pass from level %lld: expected 0 to %zu, and above 0 its state",
                         static_cast<ll>(latents.level), config.flows.size() - 1);
}

namespace {

/// The first flow's numbers first: those above follow from them.
Status check_pass_out(const FlowShape& s, size_t first, FlowPass& out) {
    out.fault.reset();
    NOEMA_TRY(check_likelihoods(s, -1, out.log_sum, "log density", out.fault));
    for (size_t l = first; l < s.config.flows.size(); ++l) {
        const auto flow = static_cast<int64_t>(l);
        NOEMA_TRY(check_likelihoods(s, flow, out.log_density[l], "log density", out.fault));
        NOEMA_TRY(check_likelihoods(s, flow, out.log_det[l], "log-determinant", out.fault));
        if (out.keep_states) NOEMA_TRY(check_likelihoods(s, flow, out.states[l + 1], "state", out.fault));
    }
    return {};
}

}  // namespace

Status flow_encode(Engine& engine, const FlowConfig& config, const FlowWeights& w, const FlowBatch& batch,
                   const FlowLatents& latents, Precision precision, FlowPass& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check_pass(config, batch, latents));
    const FlowShape shape = shape_of(config, batch, precision);
    FlowTokens tokens(batch);
    make_room(shape, static_cast<size_t>(latents.level), out);
    NOEMA_TRY(engine.execute([&](Context& c) { return Encoder(shape, w, out, c).run(latents, tokens); }, cancelled));
    telescope(shape, out);
    return check_pass_out(shape, static_cast<size_t>(latents.level), out);
}

}  // namespace noema
