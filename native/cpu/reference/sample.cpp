#include "head.h"
#include "noema/rng.h"

namespace noema::reference {

namespace {

template <class A>
A uniform_of(const Sample& p, int64_t r, int64_t lane) {
    const int64_t step = p.steps ? p.steps.as<int32_t>()[r] : p.step;
    return static_cast<A>(rng_uniform(static_cast<uint64_t>(p.seeds.as<int64_t>()[r]), RngStream::token,
                                      static_cast<uint32_t>(step), static_cast<uint32_t>(p.positions.as<int32_t>()[r]),
                                      static_cast<uint32_t>(lane)));
}

/// exp(logit / temperature) of some ids, relative to the likeliest.
template <class A>
std::vector<A> tempered(const Sample& p, const std::vector<A>& logits, const std::vector<int64_t>& ids) {
    const A most = *std::max_element(logits.begin(), logits.end());
    std::vector<A> mass;
    for (const int64_t v : ids) mass.push_back(std::exp((logits[v] - most) / static_cast<A>(p.temperature)));
    return mass;
}

/// Cuts the ranking to top_k, then to the smallest part of it whose share reaches top_p.
template <class A>
void cut(const Sample& p, const std::vector<A>& logits, std::vector<int64_t>& order) {
    if (p.top_k > 0 && p.top_k < static_cast<int64_t>(order.size())) order.resize(static_cast<size_t>(p.top_k));
    if (p.top_p >= 1) return;
    const std::vector<A> mass = tempered(p, logits, order);
    const A goal = static_cast<A>(p.top_p) * std::accumulate(mass.begin(), mass.end(), A{0});
    A sum = 0;
    size_t kept = 0;
    while (kept < order.size() && (kept == 0 || sum < goal)) sum += mass[kept++];
    order.resize(kept);
}

template <class A>
int64_t gumbel_choice(const Sample& p, int64_t r, const std::vector<A>& logits, const std::vector<int64_t>& ids) {
    int64_t best = ids[0];
    A best_score = -std::numeric_limits<A>::infinity();
    for (const int64_t v : ids) {
        const A score = logits[v] / static_cast<A>(p.temperature) - std::log(-std::log(uniform_of<A>(p, r, v)));
        if (!(score > best_score)) continue;
        best = v;
        best_score = score;
    }
    return best;
}

template <class A>
int64_t categorical_choice(const Sample& p, int64_t r, const std::vector<A>& mass, const std::vector<int64_t>& ids) {
    const A goal = uniform_of<A>(p, r, 0) * std::accumulate(mass.begin(), mass.end(), A{0});
    A sum = 0;
    for (size_t i = 0; i < ids.size(); ++i)
        if ((sum += mass[i]) > goal) return ids[i];
    return ids.back();
}

template <class A>
int64_t choose(const Sample& p, int64_t r, const std::vector<A>& logits, std::vector<int64_t> order) {
    if (is_broken(logits) || p.temperature == 0) return order[0];
    cut(p, logits, order);
    std::sort(order.begin(), order.end());
    if (p.kind == SampleKind::gumbel) return gumbel_choice(p, r, logits, order);
    return categorical_choice(p, r, tempered(p, logits, order), order);
}

template <class A>
Status sample_loop(const Sample& p) {
    const int64_t R = p.rows ? p.rows.shape[0] : p.hidden.shape[0];
    for (int64_t r = 0; r < R; ++r) {
        const int64_t row = p.rows ? p.rows.as<int32_t>()[r] : r;
        const std::vector<A> logits = row_logits<A>(p.hidden, row, p.weight, p.bias, p.excluded_id, p.precision);
        const std::vector<int64_t> order = ranking(logits, p.excluded_id);
        write_row_stats(p.out, r, logits, order);
        const int64_t token = choose(p, r, logits, order);
        set<A>(p.tokens, static_cast<A>(token), r);
        if (p.logit) set<A>(p.logit, is_broken(logits) ? std::numeric_limits<A>::quiet_NaN() : logits[token], r);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(sample, Sample)

}  // namespace noema::reference
