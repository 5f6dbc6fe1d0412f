// Rejective fine-tuning: winners and losers are targets of the same outputs, so one pass through the network serves both. What each
// sequence's tokens weigh follows from its own sums of log p, so the head runs twice: once for those, once for the gradients.
#include <cmath>

#include "models/masked/backward.h"

namespace noema {

namespace {

/// The tokens that are scored, winners' and losers' one after the other within each sequence.
struct Entries {
    std::vector<int32_t> rows, targets, sequences;
    std::vector<bool> wins;

    Entries(const MaskedBatch& batch, const MaskedPairs& pairs) {
        for (int64_t b = 0; b < batch.B; ++b) {
            add(batch, b, pairs.winners, true);
            add(batch, b, pairs.losers, false);
        }
    }
    int64_t size() const { return static_cast<int64_t>(rows.size()); }

 private:
    void add(const MaskedBatch& batch, int64_t b, const int32_t* targets_of, bool winning) {
        for (int64_t r = b * batch.T; r < (b + 1) * batch.T; ++r) {
            if (targets_of[r] < 0) continue;
            rows.push_back(static_cast<int32_t>(r));
            targets.push_back(targets_of[r]);
            sequences.push_back(static_cast<int32_t>(b));
            wins.push_back(winning);
        }
    }
};

/// log(1 + e^-x), which is -log sigmoid(x).
double softplus_of_minus(double x) {
    return x > 0 ? std::log1p(std::exp(-x)) : -x + std::log1p(std::exp(x));
}

/// W and L of every sequence, and the loss.
PairResult judge_pairs(const Entries& e, const MaskedPairs& p, const std::vector<float>& losses, int64_t B) {
    PairResult r;
    r.winners.resize(B), r.losers.resize(B);
    for (int64_t i = 0; i < e.size(); ++i) (e.wins[i] ? r.winners : r.losers)[e.sequences[i]] -= losses[i];
    for (int64_t b = 0; b < B; ++b) {
        r.winners[b] /= p.winner_denominators[b], r.losers[b] /= p.loser_denominators[b];
        const double margin = p.beta_w * r.winners[b] - p.beta_l * r.losers[b] - p.gamma;
        r.loss += p.scale * (softplus_of_minus(margin) - p.beta_a * r.winners[b]);
    }
    return r;
}

/// The derivative of the loss by each entry's own, -log p.
std::vector<float> weights_of(const Entries& e, const MaskedPairs& p, const PairResult& r) {
    std::vector<float> weights(e.rows.size());
    for (size_t i = 0; i < weights.size(); ++i) {
        const int32_t b = e.sequences[i];
        const double margin = p.beta_w * r.winners[b] - p.beta_l * r.losers[b] - p.gamma;
        const double doubt = 1 / (1 + std::exp(margin));
        weights[i] = static_cast<float>(e.wins[i] ? p.scale * (doubt * p.beta_w + p.beta_a) / p.winner_denominators[b]
                                                  : -p.scale * doubt * p.beta_l / p.loser_denominators[b]);
    }
    return weights;
}

}  // namespace

Status masked_pair_gradients(const MaskedConfig& config, const MaskedWeights& w, const MaskedGradients& g,
                             const MaskedBatch& batch, const MaskedPairs& pairs, PairResult& result,
                             Precision precision, Context& c) {
    const MaskedPass pass{config, w, g, batch, precision};
    const Entries entries(batch, pairs);
    const int64_t S = entries.size();
    std::vector<float> losses(S), weights;
    return through_network(
        pass, &entries.rows,
        [&](const Predictions& predictions) {
            const View loss = c.arena->tensor(DType::f32, S);
            CrossEntropy op = head_loss(pass, predictions, loss, pairs.excluded_id);
            op.targets = c.upload(view(const_cast<int32_t*>(entries.targets.data()), DType::i32, S));
            NOEMA_TRY(cross_entropy(op, c));
            NOEMA_TRY(c.read(loss, losses.data()));

            result = judge_pairs(entries, pairs, losses, batch.B);
            weights = weights_of(entries, pairs, result);
            op.row_weight = c.upload(view(weights.data(), DType::f32, S));
            return cross_entropy(with_gradients(op, pass, predictions), c);
        },
        c);
}

}  // namespace noema
