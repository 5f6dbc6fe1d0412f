#include <algorithm>
#include <cmath>
#include <cstring>

#include "models/masked/weights.h"

namespace noema {

namespace {

template <class T>
std::vector<T> copied(const View& v) {
    return v ? std::vector<T>(v.as<T>(), v.as<T>() + v.size()) : std::vector<T>();
}

std::vector<float> probabilities(const View& logits, const View& lse) {
    std::vector<float> p = copied<float>(logits);
    const int64_t K = logits.rank == 2 ? logits.shape[1] : 1;
    for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp(p[i] - lse.as<float>()[i / K]);
    return p;
}

Status refuse(const char* what) {
    return Status::error(Code::invalid_argument, "decoding session: %s", what);
}

}  // namespace

/// Arena memory of one step: what the ops read and write for the R rows of the request.
struct DecodeSession::RowBuffers {
    View rows, seeds, positions, tokens, logit;
    RowStatsOutputs out;
};

DecodeSession::RowBuffers DecodeSession::take_buffers(const DecodeStep& request, Arena& arena) {
    const int64_t R = static_cast<int64_t>(request.rows.size()), top = top_of(request);
    RowBuffers b;
    b.rows = arena.tensor(DType::i32, R);
    b.seeds = arena.tensor(DType::i64, R);
    b.positions = arena.tensor(DType::i32, R);
    b.tokens = arena.tensor(DType::i32, R);
    b.logit = arena.tensor(DType::f32, R);
    b.out.lse = arena.tensor(DType::f32, R);
    if (request.entropy) b.out.entropy = arena.tensor(DType::f32, R);
    if (request.margin) b.out.margin = arena.tensor(DType::f32, R);
    if (top > 0) {
        b.out.top_ids = arena.tensor(DType::i32, R, top);
        b.out.top_logits = arena.tensor(DType::f32, R, top);
    }
    return b;
}

DecodeSession::DecodeSession(std::shared_ptr<const MaskedModel> model, Options options)
    : model_(std::move(model)), options_(std::move(options)) {}

Status DecodeSession::create(std::shared_ptr<const MaskedModel> model, Options o, std::shared_ptr<DecodeSession>& out) {
    const size_t R = static_cast<size_t>(o.B * o.T), B = static_cast<size_t>(o.B);
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
Status DecodeSession::hidden(Context& c, const View& out) const {
    const MaskedModel& m = *model_;
    NOEMA_TRY(masked_forward(m.config(), m.weights(), batch(), m.precision(), out, c));
    if (options_.guidance == 0) return {};
    ArenaScope scope(*c.arena);
    const View u = c.arena->tensor(DType::f32, out.shape[0], out.shape[1]);
    const View gate = c.arena->tensor(DType::f32, 2, out.shape[1]);
    MaskedBatch unguided = batch();
    unguided.ids = unconditional_.data();
    NOEMA_TRY(masked_forward(m.config(), m.weights(), unguided, m.precision(), u, c));
    if (!c.arena->measuring())
        for (int64_t i = 0; i < gate.shape[1]; ++i) {
            gate.at<float>(0)[i] = options_.guidance;
            gate.at<float>(1)[i] = -options_.guidance;
        }
    const auto row = [&](int64_t i) { return view(gate.at<float>(i), DType::f32, 1, gate.shape[1]); };
    const int64_t R = out.shape[0];
    NOEMA_TRY(gated_add({.x = out, .f = out, .gate = row(0), .y = out, .rows_per_sequence = R}, c));
    return gated_add({.x = out, .f = u, .gate = row(1), .y = out, .rows_per_sequence = R}, c);
}

Status DecodeSession::neighbourhood(const Neighbourhood& n, const View& masked, const View& p, const View& s,
                                    Context& c) const {
    if (!c.arena->measuring())
        for (int64_t r = 0; r < masked.size(); ++r)
            masked.as<uint8_t>()[r] = options_.ids[r] == model_->config().mask_token_id;
    return masked_conv_norm({.masked = masked,
                             .p = p,
                             .p_conv = p,
                             .s = s,
                             .kernel = n.kernel | 1,
                             .multiplier = n.multiplier,
                             .shape = n.shape},
                            c);
}

// p of the K + 1 best tokens of each row -> p_conv (t - s); the last column becomes "stays masked", s; one draw per row.
Status DecodeSession::draw_convolutional(const DecodeStep& request, const RowBuffers& b, Context& c) const {
    const ConvolutionalDraw& d = request.convolution;
    const int64_t B = options_.B, T = options_.T, K = d.candidates + 1, R = b.rows.shape[0];
    const View masked = c.arena->tensor(DType::u8, B, T), s = c.arena->tensor(DType::f32, B, T);
    const View p = c.arena->tensor(DType::f32, B, T, K), weight = c.arena->tensor(DType::f32, R, K);
    const View index = c.arena->tensor(DType::i32, R);
    const int32_t* rows = b.rows.as<int32_t>();
    const bool work = !c.arena->measuring();
    if (work) {
        std::memset(p.data, 0, p.bytes());
        for (int64_t i = 0; i < R * K; ++i)
            p.as<float>()[rows[i / K] * K + i % K] =
                std::exp(b.out.top_logits.as<float>()[i] - b.out.lse.as<float>()[i / K]);
    }
    NOEMA_TRY(neighbourhood(d.neighbourhood, masked, p, s, c));
    if (work)
        for (int64_t i = 0; i < R * K; ++i)
            weight.as<float>()[i] = i % K == K - 1 ? d.stay : p.as<float>()[rows[i / K] * K + i % K] * d.move;
    Draw op{.weight = weight, .index = index, .step = request.step, .temperature = d.temperature};
    if (d.uniforms) {
        op.uniforms = view(const_cast<float*>(d.uniforms), DType::f32, R, K);
    } else {
        op.seeds = b.seeds;
        op.positions = b.positions;
    }
    NOEMA_TRY(draw(op, c));
    if (!work) return {};
    const int32_t stays = static_cast<int32_t>(model_->config().mask_token_id);
    for (int64_t i = 0; i < R; ++i) {
        const int32_t j = index.as<int32_t>()[i];
        b.tokens.as<int32_t>()[i] = j == K - 1 ? stays : b.out.top_ids.as<int32_t>()[i * K + j];
        b.logit.as<float>()[i] = b.out.top_logits.as<float>()[i * K + (j == K - 1 ? 0 : j)];
    }
    return {};
}

Status DecodeSession::draw_tokens(const DecodeStep& request, const View& hidden_states, const RowBuffers& b,
                                  Context& c) const {
    const TokenDraw& d = request.draw;
    RowStatsOutputs out = b.out;
    const Weight& head = model_->weights().head;
    if (d.kind == DrawKind::argmax || request.convolution.neighbourhood.kernel > 0) {
        out.argmax = b.tokens;
        out.max_logit = b.logit;
        return row_stats({.hidden = hidden_states,
                          .rows = b.rows,
                          .weight = head,
                          .out = out,
                          .excluded_id = d.excluded_id,
                          .precision = model_->precision()},
                         c);
    }
    return sample({.hidden = hidden_states,
                   .rows = b.rows,
                   .weight = head,
                   .seeds = b.seeds,
                   .positions = b.positions,
                   .tokens = b.tokens,
                   .logit = b.logit,
                   .out = out,
                   .excluded_id = d.excluded_id,
                   .step = request.step,
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

void DecodeSession::fill_rows(const DecodeStep& request, const RowBuffers& b) const {
    for (size_t i = 0; i < request.rows.size(); ++i) {
        const int32_t row = request.rows[i];
        b.rows.as<int32_t>()[i] = row;
        b.positions.as<int32_t>()[i] = static_cast<int32_t>(row % options_.T);
        b.seeds.as<int64_t>()[i] = static_cast<int64_t>(options_.seeds[row / options_.T]);
    }
}

void DecodeSession::mask_prompt() {
    if (options_.guidance == 0) return;
    unconditional_ = options_.ids;
    for (size_t i = 0; i < unconditional_.size(); ++i)
        if (options_.prompt[i]) unconditional_[i] = static_cast<int32_t>(model_->config().mask_token_id);
}

void DecodeSession::collect(const DecodeStep& request, const RowBuffers& b, DecodeResult& result) const {
    result.tokens = copied<int32_t>(b.tokens);
    result.confidence = probabilities(b.logit, b.out.lse);
    result.entropy = copied<float>(b.out.entropy);
    result.margin = copied<float>(b.out.margin);
    if (request.top == 0) return;
    result.top_ids = copied<int32_t>(b.out.top_ids);
    result.top_probabilities = probabilities(b.out.top_logits, b.out.lse);
}

Status DecodeSession::step(Engine& engine, const DecodeStep& request, DecodeResult& result,
                           const std::atomic<bool>* cancelled) {
    NOEMA_TRY(check(request));
    result = {};
    if (request.rows.empty()) return {};
    mask_prompt();
    const auto body = [&](Context& c) {
        const RowBuffers b = take_buffers(request, *c.arena);
        const View states = c.arena->tensor(DType::f32, options_.B * options_.T, model_->config().hidden_size);
        const View masked = c.arena->tensor(DType::u8, options_.B, options_.T);
        const View s = c.arena->tensor(DType::f32, options_.B, options_.T);
        const bool work = !c.arena->measuring();
        if (work) fill_rows(request, b);
        NOEMA_TRY(hidden(c, states));
        NOEMA_TRY(draw_tokens(request, states, b, c));
        if (request.convolution.neighbourhood.kernel > 0) NOEMA_TRY(draw_convolutional(request, b, c));
        if (request.neighbourhood.kernel > 0) NOEMA_TRY(neighbourhood(request.neighbourhood, masked, {}, s, c));
        if (work) collect(request, b, result);
        if (work && request.neighbourhood.kernel > 0)
            for (const int32_t row : request.rows) result.neighbourhood.push_back(s.as<float>()[row]);
        return Status{};
    };
    return engine.execute(body, cancelled);
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
