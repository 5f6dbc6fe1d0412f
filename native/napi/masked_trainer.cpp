#include "training_handle.h"

namespace noema::napi {

namespace {

struct Accumulation {
    std::vector<int32_t> targets;
    std::vector<float> weights, losses;
    double sum = 0;
};

struct Pairs {
    std::vector<int32_t> winners, losers;
    std::vector<float> winner_denominators, loser_denominators;
    MaskedPairs pairs;
    PairResult result;
};

std::shared_ptr<Pairs> read_pairs(const Arguments& a, const MaskedBatch& batch) {
    auto p = std::make_shared<Pairs>();
    const auto per_sequence = [&](const char* name) {
        std::vector<float> values = a.floats(name);
        if (static_cast<int64_t>(values.size()) != batch.B) a.refuse(name, "one entry per sequence");
        return values;
    };
    const auto number = [&](const char* name) { return static_cast<float>(a.number(name)); };
    p->winners = read_per_row(a, "winners", batch);
    p->losers = read_per_row(a, "losers", batch);
    p->winner_denominators = per_sequence("winnerDenominators");
    p->loser_denominators = per_sequence("loserDenominators");
    p->pairs = {.winners = p->winners.data(),
                .losers = p->losers.data(),
                .winner_denominators = p->winner_denominators.data(),
                .loser_denominators = p->loser_denominators.data(),
                .beta_w = number("betaW"),
                .beta_l = number("betaL"),
                .beta_a = number("betaA"),
                .gamma = number("gamma"),
                .scale = number("scale"),
                .excluded_id = a.integer_or("excludedId", -1, -1, int64_t{1} << 31)};
    return p;
}

class MaskedTrainerHandle : public TrainingHandle<MaskedTrainerHandle, MaskedTrainer> {
 public:
    using TrainingHandle::TrainingHandle;

    static Napi::Value define(Napi::Env env) {
        return define_with(env, "NativeMaskedTrainer",
                           {InstanceMethod("accumulate", &MaskedTrainerHandle::accumulate),
                            InstanceMethod("accumulatePairs", &MaskedTrainerHandle::accumulate_pairs),
                            InstanceMethod("losses", &MaskedTrainerHandle::losses)});
    }

 private:
    Napi::Value accumulate(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "accumulate");
        const auto batch = read_batch(a);
        const auto state = std::make_shared<Accumulation>();
        state->targets = read_per_row(a, "targets", batch->batch);
        state->weights = a.floats("weights");
        if (state->weights.size() != state->targets.size()) a.refuse("weights", "batch * length entries");
        state->losses.resize(state->targets.size());
        const int64_t excluded = a.integer_or("excludedId", -1, -1, int64_t{1} << 31);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            const MaskedObjective objective{.targets = state->targets.data(),
                                            .row_weights = state->weights.data(),
                                            .excluded_id = excluded,
                                            .losses = state->losses.data()};
            return trainer->accumulate(engine, batch->batch, objective, state->sum, cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("lossSum", state->sum);
            out.Set("tokenLoss", to_array(env, state->losses));
            return out;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value accumulate_pairs(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "accumulatePairs");
        const auto batch = read_batch(a);
        const auto pairs = read_pairs(a, batch->batch);
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->accumulate_pairs(engine, batch->batch, pairs->pairs, pairs->result, cancelled);
        };
        const auto result = [=](Napi::Env env) -> Napi::Value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("loss", pairs->result.loss);
            out.Set("winners", to_array(env, pairs->result.winners));
            out.Set("losers", to_array(env, pairs->result.losers));
            return out;
        };
        return runtime()->submit(info.Env(), {work, result, a.cancellation()});
    }

    Napi::Value losses(const Napi::CallbackInfo& info) {
        const auto trainer = alive(info, "trainer");
        const Arguments a(info, "losses");
        const auto batch = read_batch(a);
        const auto targets = std::make_shared<std::vector<int32_t>>(read_per_row(a, "targets", batch->batch));
        const int64_t excluded = a.integer_or("excludedId", -1, -1, int64_t{1} << 31);
        const bool average = a.choice("source", kSources) == 1;
        auto out = std::make_shared<std::vector<float>>(targets->size());
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            return trainer->losses(engine, batch->batch, targets->data(), excluded, average, out->data(), cancelled);
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return to_array(env, *out); }, a.cancellation()});
    }
};

}  // namespace

Napi::Value define_masked_trainer(Napi::Env env) {
    return MaskedTrainerHandle::define(env);
}

Napi::Object new_masked_trainer(Napi::Env env, std::shared_ptr<Runtime> runtime,
                                std::shared_ptr<MaskedTrainer> trainer) {
    return MaskedTrainerHandle::make(addon_data(env).masked_trainer, std::move(runtime), std::move(trainer));
}

}  // namespace noema::napi
