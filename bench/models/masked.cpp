// A masked model's step as its users call it: everything that crosses to the device and back is inside the time.
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "noema/masked_model.h"
#include "noema/rng.h"
#include "ops/bench.h"

using namespace noema;
using namespace noema::bench;

namespace {

struct Size {
    const char* name;
    MaskedConfig config;
    int64_t B, T;
};

/// models/tales-masked, and the size of the published MDLM.
Size tales() {
    MaskedConfig c;
    c.vocab_size = 4096;
    c.hidden_size = 256;
    c.num_layers = 8;
    c.num_heads = c.num_kv_heads = 4;
    c.intermediate_size = 704;
    c.max_positions = 256;
    c.tied_embeddings = true;
    c.mask_token_id = 1;
    return {"7M", c, 32, 256};
}
Size mdlm() {
    MaskedConfig c;
    c.vocab_size = 50258;
    c.hidden_size = 768;
    c.num_layers = 12;
    c.num_heads = c.num_kv_heads = 12;
    c.intermediate_size = 3072;
    c.max_positions = 1024;
    c.mask_token_id = 50257;
    return {"170M", c, 8, 1024};
}

/// Of variance 1. Not normal: a bench has some hundred million to make, several times, and no use for tails.
float random_weight(uint32_t row, uint32_t lane) {
    return 1.7320508f * (2 * rng_uniform(7, RngStream::init, 0, row, lane) - 1);
}

/// A network of random weights on one engine.
std::shared_ptr<MaskedModel> random_model(Engine& engine, const MaskedConfig& config, Precision precision,
                                          Status& status) {
    std::vector<std::vector<float>> values;
    std::vector<TensorSource> sources;
    uint32_t row = 0;
    for (const TensorSpec& spec : masked_tensors(config)) {
        std::vector<float> v(spec.size());
        for (size_t i = 0; i < v.size(); ++i)
            v[i] = spec.is_matrix() ? 0.02f * random_weight(row, static_cast<uint32_t>(i)) : 1.0f;
        ++row;
        values.push_back(std::move(v));
        TensorSource s;
        s.name = spec.name;
        s.shape = spec.is_matrix() ? std::vector<int64_t>{spec.rows, spec.columns} : std::vector<int64_t>{spec.rows};
        s.data = values.back().data();
        sources.push_back(s);
    }
    std::unique_ptr<MaskedModel> model;
    status = MaskedModel::load(engine, config, sources, precision, model);
    return model;
}

/// Half of the positions are masked.
struct Corpus {
    std::vector<int32_t> ids, targets;
    std::vector<float> weights;

    Corpus(const MaskedConfig& c, int64_t R) : ids(R), targets(R), weights(R, 1.0f / static_cast<float>(R)) {
        for (int64_t r = 0; r < R; ++r) {
            const auto lane = static_cast<uint32_t>(r);
            const auto id = static_cast<int32_t>(static_cast<float>(c.vocab_size - 2) *
                                                 rng_uniform(3, RngStream::order, 0, 0, lane));
            const bool masked = rng_uniform(3, RngStream::corruption, 0, 0, lane) < 0.5f;
            ids[r] = masked ? static_cast<int32_t>(c.mask_token_id) : id;
            targets[r] = masked ? id : -1;
        }
    }
};

double parameters_in_products(const MaskedConfig& c) {
    double n = 0;
    for (const TensorSpec& spec : masked_tensors(c))
        if (spec.is_matrix() && spec.name != "embed.weight" && spec.name != "head.weight")
            n += static_cast<double>(spec.size());
    return n;
}

/// Losses of the corpus by a fresh model; what both sides of a check compute.
Status mean_loss(Engine& engine, const MaskedModel& model, const Corpus& corpus, int64_t T, double* out) {
    const MaskedBatch one{.ids = corpus.ids.data(), .B = 1, .T = T};
    std::vector<float> losses(T);
    NOEMA_TRY(model.losses(engine, one, corpus.targets.data(), -1, losses.data(), nullptr));
    *out = std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(T);
    return {};
}

/// What lives from prepare() to the end of a workload.
struct Loaded {
    std::shared_ptr<MaskedModel> model;
    std::unique_ptr<MaskedTrainer> trainer;
    std::shared_ptr<DecodeSession> session;
    double loss = 0;
    int64_t steps = 0;
};

Status load(Engine& engine, const Size& size, const Corpus& corpus, Loaded& loaded) {
    Status status;
    loaded.model = random_model(engine, size.config, Precision::bf16, status);
    NOEMA_TRY(status);
    return mean_loss(engine, *loaded.model, corpus, size.T, &loaded.loss);
}

/// The loss of the same weights on the processor in f32.
double loss_error(const Size& size, const Corpus& corpus, double measured) {
    Engine engine(*find_backend("cpu"), 0);
    Status status;
    const auto model = random_model(engine, size.config, Precision::f32, status);
    double expected = 0;
    if (!status.ok() || !mean_loss(engine, *model, corpus, size.T, &expected).ok()) return INFINITY;
    return std::fabs(measured / expected - 1);
}

Workload decode_step(const Size& size, int64_t B) {
    const auto corpus = std::make_shared<Corpus>(size.config, B * size.T);
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name = std::string("masked/decode step ") + size.name + " B" + std::to_string(B) + " T" + std::to_string(size.T);
    DecodeStep request;
    request.draw = {.kind = DrawKind::gumbel, .excluded_id = size.config.mask_token_id};
    for (int64_t r = 0; r < B * size.T; ++r)
        if (corpus->targets[r] >= 0) request.rows.push_back(static_cast<int32_t>(r));
    const double rows = static_cast<double>(B * size.T);
    w.work.flops = 2 * parameters_in_products(size.config) * rows +
                   2.0 * static_cast<double>(request.rows.size() * size.config.vocab_size * size.config.hidden_size);
    w.work.precision = Precision::bf16;
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(load(engine, size, *corpus, *loaded));
        DecodeSession::Options o{.B = B, .T = size.T, .ids = corpus->ids};
        o.seeds.assign(B, 5);
        return DecodeSession::create(loaded->model, o, loaded->session);
    };
    w.step = [=](Engine& engine) {
        DecodeStep now = request;
        now.step = ++loaded->steps;
        DecodeResult result;
        return loaded->session->step(engine, now, result, nullptr);
    };
    w.error = [=] { return loss_error(size, *corpus, loaded->loss); };
    w.release = [=] { *loaded = {}; };
    return w;
}

Workload train_step(const Size& size) {
    const auto corpus = std::make_shared<Corpus>(size.config, size.B * size.T);
    const auto loaded = std::make_shared<Loaded>();
    Workload w;
    w.name =
        std::string("masked/train step ") + size.name + " B" + std::to_string(size.B) + " T" + std::to_string(size.T);
    const double rows = static_cast<double>(size.B * size.T);
    w.work.flops = 6 * parameters_in_products(size.config) * rows +
                   6.0 * rows / 2 * static_cast<double>(size.config.vocab_size * size.config.hidden_size);
    w.work.precision = Precision::bf16;
    w.prepare = [=](Engine& engine) {
        NOEMA_TRY(load(engine, size, *corpus, *loaded));
        return MaskedTrainer::create(engine, loaded->model, false, loaded->trainer);
    };
    w.step = [=](Engine& engine) {
        std::vector<float> losses(corpus->ids.size());
        const MaskedBatch batch{.ids = corpus->ids.data(), .B = size.B, .T = size.T};
        const MaskedObjective objective{
            .targets = corpus->targets.data(), .row_weights = corpus->weights.data(), .losses = losses.data()};
        double sum = 0;
        float norm = 0;
        NOEMA_TRY(loaded->trainer->accumulate(engine, batch, objective, sum, nullptr));
        return loaded->trainer->step(engine, {.rate = 1e-5f, .max_norm = 1, .step = ++loaded->steps}, norm);
    };
    w.error = [=] { return loss_error(size, *corpus, loaded->loss); };
    w.release = [=] { *loaded = {}; };
    return w;
}

const RegisteredWorkloads registered([] {
    return std::vector{decode_step(tales(), 1), decode_step(mdlm(), 1), train_step(tales()), train_step(mdlm())};
});

}  // namespace
