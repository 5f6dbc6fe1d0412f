// A whole stack from data to noise, position after position: the steps of the inverse, so that it undoes them to the bit.
#include <algorithm>
#include <cmath>

#include "models/flow/faults.h"
#include "models/flow/stage_inverse.h"

namespace noema {

double grid_of(const FlowConfig& config, size_t level) {
    // Bits after the point: of the data's grid, and what inverses stretch: an affine one by exp 4, a mixture's a token of 16 nats by
    // 2^26. The finest grid is under the last flow, whose noise is not rounded: a state of size 16 has 49 bits, an affine inverse loses
    // some 2, a search ends within 2^-46 or so.
    constexpr int kCoarsest = 20, kAffine = 6, kMixture = 26, kUnderAffine = 46, kUnderMixture = 40;
    const size_t L = config.flows.size();
    if (level >= L) return 0;
    const int finest = config.flows.back().kind == FlowKind::affine ? kUnderAffine : kUnderMixture;
    const auto affine = std::count_if(config.flows.begin(), config.flows.end() - 1,
                                      [](const FlowStage& flow) { return flow.kind == FlowKind::affine; });
    const int steps = static_cast<int>(L) - 1, mixtures = steps - static_cast<int>(affine), room = finest - kCoarsest;
    const int by_affine = std::min(kAffine, room / std::max(steps, 1));
    const int left = room - by_affine * static_cast<int>(affine);
    const int by_mixture = std::min(kMixture, left / std::max(mixtures, 1));
    int bits = kCoarsest;
    for (size_t l = 0; l < level; ++l) bits += config.flows[l].kind == FlowKind::affine ? by_affine : by_mixture;
    return std::ldexp(1.0, -bits);
}

namespace {

class Tracer {
 public:
    Tracer(const FlowShape& s, const FlowWeights& w, FlowTrace& out, Context& c) : s_(s), w_(w), out_(out), c_(c) {}

    Status run(const FlowLatents& latents, FlowTokens& tokens) {
        const View h = wide();
        const size_t first = static_cast<size_t>(latents.level);
        NOEMA_TRY(start(latents, tokens, h));
        View prefix;
        if (s_.m) {
            const View ids = c_.upload(view(tokens.prefix.data(), DType::i32, s_.B * s_.m * s_.P()));
            NOEMA_TRY(prefix_means(s_, ids, w_.mean, prefix, c_));
        }
        c_.fetch(h, out_.states[first].data());
        for (size_t l = first; l < static_cast<size_t>(out_.to); ++l) NOEMA_TRY(step(l, prefix, h));
        return {};
    }

 private:
    View wide() const { return c_.arena->tensor(DType::f64, s_.rows(), s_.c()); }

    /// On the grid of its level: an affine map by 1, of no shift, is what rounds on any device.
    Status start(const FlowLatents& latents, FlowTokens& tokens, const View& h) {
        ArenaScope scope(*c_.arena);
        const View same = c_.arena->tensor(DType::f32, s_.rows(), 2 * s_.c()), from = wide();
        NOEMA_TRY(c_.clear(same));
        if (latents.given) {
            const View given = view(const_cast<double*>(latents.given), DType::f64, s_.rows(), s_.c());
            NOEMA_TRY(cast({.x = c_.upload(given), .y = from}, c_));
        } else {
            const View z = c_.arena->tensor(DType::f32, s_.tokens(), s_.d());
            NOEMA_TRY(first_state(s_, w_, latents, tokens, z, c_));
            NOEMA_TRY(cast({.x = as_shape(z, {s_.rows(), s_.c()}), .y = from}, c_));
        }
        return affine({.h = from, .parameters = same, .u = h, .grid = grid_of(s_.config, latents.level)}, c_);
    }

    /// h^(l) -> h^(l+1), in place.
    Status step(size_t l, const View& prefix, const View& h) {
        ArenaScope scope(*c_.arena);
        const bool reverse = s_.config.flows[l].reverse;
        const View ordered = wide(), u = wide(), text = by_sequence(h, s_.B);
        const int64_t searches = s_.rows() * coupling_of(s_.config, w_, l).searches();
        const View failed = c_.arena->tensor(DType::i32, searches);
        NOEMA_TRY(reorder({.x = text, .y = by_sequence(ordered, s_.B), .reverse = reverse}, c_));
        NOEMA_TRY(StageInverse(s_, w_, l, c_)
                      .run({.prefix = prefix,
                            .u = u,
                            .h = ordered,
                            .failed = failed,
                            .grid = grid_of(s_.config, l + 1),
                            .forward = true}));
        NOEMA_TRY(reorder({.x = by_sequence(u, s_.B), .y = text, .channels = mixing(s_, l), .reverse = reverse}, c_));
        c_.fetch(h, out_.states[l + 1].data());
        return {};
    }

    const FlowShape& s_;
    const FlowWeights& w_;
    FlowTrace& out_;
    Context& c_;
};

}  // namespace

Status flow_trace(Engine& engine, const FlowConfig& config, const FlowWeights& w, const FlowBatch& batch,
                  const FlowLatents& latents, Precision precision, FlowTrace& out, const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check_pass(config, batch, latents));
    const FlowShape shape = shape_of(config, batch, precision);
    FlowTokens tokens(batch);
    const int64_t L = static_cast<int64_t>(config.flows.size());
    out.fault.reset();
    if (out.to < 0) out.to = L;
    if (out.to < latents.level || out.to > L)
        return Status::error(Code::invalid_argument, "from level %lld to %lld: expected up to %lld",
                             static_cast<long long>(latents.level), static_cast<long long>(out.to),
                             static_cast<long long>(L));
    const size_t first = static_cast<size_t>(latents.level), last = static_cast<size_t>(out.to);
    out.states.assign(config.flows.size() + 1, {});
    for (size_t l = first; l <= last; ++l) out.states[l].resize(shape.rows() * shape.c());
    NOEMA_TRY(engine.execute([&](Context& c) { return Tracer(shape, w, out, c).run(latents, tokens); }, cancelled));
    for (size_t l = first; l <= last; ++l)
        NOEMA_TRY(check_state(shape, l > 0 ? l - 1 : 0, out.states[l].data(), nullptr, out.fault));
    return {};
}

}  // namespace noema
