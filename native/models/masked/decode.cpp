#include <algorithm>
#include <cmath>

#include "models/masked/weights.h"

namespace noema {

namespace {

/// exp(logit - lse), K logits to a row.
std::vector<float> probabilities(std::vector<float> logits, const std::vector<float>& lse, int64_t K) {
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::exp(logits[i] - lse[i / K]);
    return logits;
}

Status refuse(const char* what) {
    return Status::error(Code::invalid_argument, "decoding session: %s", what);
}

// A device records a step for each number of rows that it sees. Rounding it up to one of eight per doubling keeps them few; the rows
// added repeat the first one, and their results are dropped.
int64_t recorded_rows(int64_t R) {
    int64_t unit = 1;
    while (16 * unit <= R) unit *= 2;
    return (R + unit - 1) / unit * unit;
}

template <class T>
View view_of(const std::vector<T>& values, DType dtype) {
    return view(const_cast<T*>(values.data()), dtype, static_cast<int64_t>(values.size()));
}

}  // namespace

/// One step's arrays on the host: what the ops are told of R rows, and what they say. `sources` are the rows of the hidden states that
/// predict them.
struct DecodeSession::Rows {
    std::vector<int32_t> rows, sources, positions, steps;
    std::vector<int64_t> seeds;
    std::vector<uint8_t> masked;  // [B*T], for neighbourhoods
    std::vector<float> guidance;  // [2*C]: w, then -w
    std::vector<int32_t> tokens, top_ids, index;
    std::vector<float> logit, lse, entropy, margin, top_logits, neighbourhood;

    int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

/// The same where ops can read them.
struct DecodeSession::RowViews {
    View rows, sources, positions, steps, seeds, masked, tokens, logit;
    RowStatsOutputs out;
};

DecodeSession::Rows DecodeSession::rows_of(const DecodeStep& request, bool recorded) const {
    Rows r;
    const size_t R = request.rows.size(), top = static_cast<size_t>(top_of(request));
    const bool convolutional = request.convolution.neighbourhood.kernel > 0;
    r.rows = request.rows;
    if (recorded && !convolutional) r.rows.resize(recorded_rows(static_cast<int64_t>(R)), request.rows[0]);
    for (const int32_t row : r.rows) {
        r.sources.push_back(predicting_row(model_->config(), batch(), row));
        r.positions.push_back(static_cast<int32_t>(row % options_.T));
        r.seeds.push_back(static_cast<int64_t>(options_.seeds[row / options_.T]));
        r.steps.push_back(static_cast<int32_t>(request.step));
    }
    if (convolutional || request.neighbourhood.kernel > 0)
        for (const int32_t id : options_.ids) r.masked.push_back(id == model_->config().mask_token_id);
    if (options_.guidance != 0) {
        const size_t C = static_cast<size_t>(model_->config().hidden_size);
        r.guidance.assign(2 * C, options_.guidance);
        std::fill(r.guidance.begin() + static_cast<int64_t>(C), r.guidance.end(), -options_.guidance);
    }
    const size_t n = r.rows.size();
    r.tokens.resize(n);
    r.logit.resize(n);
    r.lse.resize(n);
    r.entropy.resize(request.entropy ? n : 0);
    r.margin.resize(request.margin ? n : 0);
    r.top_ids.resize(n * top);
    r.top_logits.resize(n * top);
    r.index.resize(convolutional ? n : 0);
    r.neighbourhood.resize(request.neighbourhood.kernel > 0 ? options_.ids.size() : 0);
    return r;
}

DecodeSession::RowViews DecodeSession::upload_rows(const DecodeStep& request, const Rows& r, Context& c) const {
    const int64_t R = r.size(), top = top_of(request);
    RowViews v;
    v.rows = c.upload(view_of(r.rows, DType::i32));
    v.sources = c.upload(view_of(r.sources, DType::i32));
    v.positions = c.upload(view_of(r.positions, DType::i32));
    v.steps = c.upload(view_of(r.steps, DType::i32));
    v.seeds = c.upload(view_of(r.seeds, DType::i64));
    if (!r.masked.empty())
        v.masked = c.upload(view(const_cast<uint8_t*>(r.masked.data()), DType::u8, options_.B, options_.T));
    v.tokens = c.arena->tensor(DType::i32, R);
    v.logit = c.arena->tensor(DType::f32, R);
    v.out.lse = c.arena->tensor(DType::f32, R);
    if (request.entropy) v.out.entropy = c.arena->tensor(DType::f32, R);
    if (request.margin) v.out.margin = c.arena->tensor(DType::f32, R);
    if (top > 0) {
        v.out.top_ids = c.arena->tensor(DType::i32, R, top);
        v.out.top_logits = c.arena->tensor(DType::f32, R, top);
    }
    return v;
}

void DecodeSession::fetch_rows(const RowViews& v, Rows& r, Context& c) const {
    c.fetch(v.tokens, r.tokens.data());
    c.fetch(v.logit, r.logit.data());
    c.fetch(v.out.lse, r.lse.data());
    if (v.out.entropy) c.fetch(v.out.entropy, r.entropy.data());
    if (v.out.margin) c.fetch(v.out.margin, r.margin.data());
    if (!v.out.top_ids) return;
    c.fetch(v.out.top_ids, r.top_ids.data());
    c.fetch(v.out.top_logits, r.top_logits.data());
}

DecodeSession::DecodeSession(std::shared_ptr<const MaskedModel> model, Options options)
    : model_(std::move(model)), options_(std::move(options)) {}

Status DecodeSession::create(std::shared_ptr<const MaskedModel> model, Options o, std::shared_ptr<DecodeSession>& out) {
    const size_t R = static_cast<size_t>(o.B * o.T), B = static_cast<size_t>(o.B);
    if (model->config().causal)
        return Status::error(Code::unsupported, "a causal model has no mask token: it cannot be decoded by sessions");
    if (o.ids.size() != R) return refuse("ids must have batch * length entries");
    if (o.seeds.size() != B) return refuse("seeds must have one entry per sequence");
    if ((!o.key_start.empty() && o.key_start.size() != B) || (!o.key_end.empty() && o.key_end.size() != B))
        return refuse("keyStart and keyEnd must have one entry per sequence");
    if (o.guidance != 0 && o.prompt.size() != R) return refuse("guidance needs prompt marks for every position");
    if (!std::isfinite(o.guidance)) return refuse("guidance must be finite");
    std::shared_ptr<DecodeSession> session(new DecodeSession(std::move(model), std::move(o)));
    NOEMA_TRY(check_batch(session->model_->config(), session->batch()));
    out = std::move(session);
    return {};
}

MaskedBatch DecodeSession::batch() const {
    return {.ids = options_.ids.data(),
            .B = options_.B,
            .T = options_.T,
            .key_start = options_.key_start.empty() ? nullptr : options_.key_start.data(),
            .key_end = options_.key_end.empty() ? nullptr : options_.key_end.data()};
}

std::vector<int32_t> DecodeSession::canvas() const {
    const std::lock_guard<std::mutex> lock(canvas_lock_);
    return options_.ids;
}

Status DecodeSession::set(const std::vector<int32_t>& rows, const std::vector<int32_t>& ids) {
    if (rows.size() != ids.size()) return refuse("as many ids as rows are set");
    const int64_t R = options_.B * options_.T, V = model_->config().vocab_size;
    for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] < 0 || rows[i] >= R) return refuse("a row to set lies outside the canvas");
        if (ids[i] < 0 || ids[i] >= V) return refuse("an id to set lies outside the vocabulary");
    }
    const std::lock_guard<std::mutex> lock(canvas_lock_);
    for (size_t i = 0; i < rows.size(); ++i) options_.ids[rows[i]] = ids[i];
    return {};
}

// With guidance w: logits = u + (w + 1)(c - u). The head is linear, so the hidden states are mixed instead:
// h = (c + w c) - w u, and the head runs once.
Status DecodeSession::hidden(const Rows& r, Context& c, const View& out) const {
    const MaskedModel& m = *model_;
    NOEMA_TRY(masked_forward(m.config(), m.weights(), batch(), m.precision(), out, c));
    if (options_.guidance == 0) return {};
    ArenaScope scope(*c.arena);
    const int64_t R = out.shape[0], C = out.shape[1];
    const View u = c.arena->tensor(DType::f32, R, C);
    MaskedBatch unguided = batch();
    unguided.ids = unconditional_.data();
    NOEMA_TRY(masked_forward(m.config(), m.weights(), unguided, m.precision(), u, c));
    const auto gate = [&](int64_t i) {
        return c.upload(view(const_cast<float*>(r.guidance.data()) + i * C, DType::f32, 1, C));
    };
    NOEMA_TRY(gated_add({.x = out, .f = out, .gate = gate(0), .y = out, .rows_per_sequence = R}, c));
    return gated_add({.x = out, .f = u, .gate = gate(1), .y = out, .rows_per_sequence = R}, c);
}

// p of the K + 1 best tokens of each row -> p_conv (t - s); the last column becomes "stays masked", s; one draw per row.
Status DecodeSession::draw_convolutional(const DecodeStep& request, const RowViews& v, Rows& r, Context& c) const {
    const ConvolutionalDraw& d = request.convolution;
    const int64_t R = r.size(), K = d.candidates + 1;
    const View s = c.arena->tensor(DType::f32, options_.B, options_.T), weight = c.arena->tensor(DType::f32, R, K);
    const View index = c.arena->tensor(DType::i32, R);
    NOEMA_TRY(masked_conv_norm({.masked = v.masked,
                                .rows = v.rows,
                                .lse = v.out.lse,
                                .p = v.out.top_logits,
                                .p_conv = weight,
                                .s = s,
                                .kernel = d.neighbourhood.kernel | 1,
                                .multiplier = d.neighbourhood.multiplier,
                                .shape = d.neighbourhood.shape},
                               c));
    Draw op{.weight = weight, .index = index, .temperature = d.temperature, .scale = d.move, .last = d.stay};
    if (d.uniforms) {
        op.uniforms = c.upload(view(const_cast<float*>(d.uniforms), DType::f32, R, K));
    } else {
        op.seeds = v.seeds;
        op.positions = v.positions;
        op.steps = v.steps;
    }
    NOEMA_TRY(draw(op, c));
    c.fetch(index, r.index.data());
    return {};
}

/// The candidates that were drawn, in the place of the likeliest tokens.
void DecodeSession::choose_candidates(const DecodeStep& request, Rows& r) const {
    const int64_t K = request.convolution.candidates + 1;
    const int32_t stays = static_cast<int32_t>(model_->config().mask_token_id);
    for (int64_t i = 0; i < r.size(); ++i) {
        const int32_t j = r.index[i];
        r.tokens[i] = j == K - 1 ? stays : r.top_ids[i * K + j];
        r.logit[i] = r.top_logits[i * K + (j == K - 1 ? 0 : j)];
    }
}

Status DecodeSession::draw_tokens(const DecodeStep& request, const View& hidden_states, const RowViews& v,
                                  Context& c) const {
    const TokenDraw& d = request.draw;
    RowStatsOutputs out = v.out;
    const MaskedWeights& w = model_->weights();
    if (d.kind == DrawKind::argmax || request.convolution.neighbourhood.kernel > 0) {
        out.argmax = v.tokens;
        out.max_logit = v.logit;
        return row_stats({.hidden = hidden_states,
                          .rows = v.sources,
                          .weight = w.head,
                          .bias = w.head_bias,
                          .out = out,
                          .excluded_id = d.excluded_id,
                          .precision = model_->precision()},
                         c);
    }
    return sample({.hidden = hidden_states,
                   .rows = v.sources,
                   .weight = w.head,
                   .bias = w.head_bias,
                   .seeds = v.seeds,
                   .positions = v.positions,
                   .steps = v.steps,
                   .tokens = v.tokens,
                   .logit = v.logit,
                   .out = out,
                   .excluded_id = d.excluded_id,
                   .temperature = d.temperature,
                   .top_k = d.top_k,
                   .top_p = d.top_p,
                   .kind = d.kind == DrawKind::gumbel ? SampleKind::gumbel : SampleKind::categorical,
                   .precision = model_->precision()},
                  c);
}

Status DecodeSession::check(const DecodeStep& request) const {
    const int64_t R = options_.B * options_.T, V = model_->config().vocab_size;
    for (const int32_t row : request.rows)
        if (row < 0 || row >= R) return refuse("a row to look at lies outside the canvas");
    if (request.draw.excluded_id >= V) return refuse("excludedId lies outside the vocabulary");
    const int64_t allowed = V - (request.draw.excluded_id >= 0), top = top_of(request);
    if (top < 0 || top > std::min(kMaxTopK, allowed)) return refuse("more best tokens are asked for than there are");
    for (const Neighbourhood* n : {&request.neighbourhood, &request.convolution.neighbourhood})
        if (n->kernel < 0 || n->kernel > 1 << 24) return refuse("the convolution's kernel must be positive");
    return {};
}

int64_t DecodeSession::top_of(const DecodeStep& request) {
    return request.convolution.neighbourhood.kernel > 0 ? request.convolution.candidates + 1 : request.top;
}

void DecodeSession::mask_prompt() {
    if (options_.guidance == 0) return;
    unconditional_ = options_.ids;
    for (size_t i = 0; i < unconditional_.size(); ++i)
        if (options_.prompt[i]) unconditional_[i] = static_cast<int32_t>(model_->config().mask_token_id);
}

void DecodeSession::collect(const DecodeStep& request, Rows& r, DecodeResult& result) const {
    if (!r.index.empty()) choose_candidates(request, r);
    const size_t R = request.rows.size(), top = static_cast<size_t>(request.top);
    const auto first = [](auto values, size_t n) {
        if (n < values.size()) values.resize(n);
        return values;
    };
    result.tokens = first(std::move(r.tokens), R);
    result.confidence = first(probabilities(std::move(r.logit), r.lse, 1), R);
    result.entropy = first(std::move(r.entropy), R);
    result.margin = first(std::move(r.margin), R);
    for (size_t i = 0; i < R && !r.neighbourhood.empty(); ++i)
        result.neighbourhood.push_back(r.neighbourhood[request.rows[i]]);
    if (top == 0) return;
    result.top_ids = first(std::move(r.top_ids), R * top);
    result.top_probabilities = first(probabilities(std::move(r.top_logits), r.lse, request.top), R * top);
}

Recipe DecodeSession::recipe_of(const DecodeStep& request, const Rows& r) const {
    Recipe recipe(model_->identity(), options_.B, options_.T, options_.key_start.empty(), options_.key_end.empty(),
                  options_.guidance != 0, r.size(), request.entropy, request.margin, request.top);
    const TokenDraw& d = request.draw;
    for (const Neighbourhood* n : {&request.neighbourhood, &request.convolution.neighbourhood}) {
        recipe.add(n->kernel);
        recipe.add(n->multiplier);
        recipe.add(n->shape);
    }
    const ConvolutionalDraw& v = request.convolution;
    const auto add = [&](auto... values) { (recipe.add(values), ...); };
    add(d.kind, d.temperature, d.top_k, d.top_p, d.excluded_id);
    add(v.candidates, v.move, v.stay, v.temperature, v.uniforms != nullptr);
    return recipe;
}

Status DecodeSession::step(Engine& engine, const DecodeStep& request, DecodeResult& result,
                           const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check(request));
    result = {};
    if (request.rows.empty()) return {};
    mask_prompt();
    Rows r = rows_of(request, engine.backend().begin_recording != nullptr);
    const auto body = [&](Context& c) {
        const RowViews v = upload_rows(request, r, c);
        const View states = c.arena->tensor(DType::f32, options_.B * options_.T, model_->config().hidden_size);
        NOEMA_TRY(hidden(r, c, states));
        NOEMA_TRY(draw_tokens(request, states, v, c));
        fetch_rows(v, r, c);
        if (request.convolution.neighbourhood.kernel > 0) NOEMA_TRY(draw_convolutional(request, v, r, c));
        if (request.neighbourhood.kernel == 0) return Status{};
        const View s = c.arena->tensor(DType::f32, options_.B, options_.T);
        const Neighbourhood& n = request.neighbourhood;
        NOEMA_TRY(masked_conv_norm(
            {.masked = v.masked, .s = s, .kernel = n.kernel | 1, .multiplier = n.multiplier, .shape = n.shape}, c));
        c.fetch(s, r.neighbourhood.data());
        return Status{};
    };
    NOEMA_TRY(engine.execute(recipe_of(request, r), body, cancelled));
    collect(request, r, result);
    return {};
}

Status DecodeSession::run(Engine& engine, const std::vector<DecodeStep>& plan, DecodeResult& result,
                          const std::atomic<bool>* cancelled, const std::function<void(int64_t)>& finished) {
    result = {};
    for (size_t i = 0; i < plan.size(); ++i) {
        DecodeResult one;
        NOEMA_TRY(step(engine, plan[i], one, cancelled));
        NOEMA_TRY(set(plan[i].rows, one.tokens));
        result.tokens.insert(result.tokens.end(), one.tokens.begin(), one.tokens.end());
        result.confidence.insert(result.confidence.end(), one.confidence.begin(), one.confidence.end());
        if (finished) finished(static_cast<int64_t>(i) + 1);
    }
    return {};
}

}  // namespace noema
