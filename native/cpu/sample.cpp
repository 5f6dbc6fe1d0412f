// Four ways through a row, by what the options need of it:
//
//   greedy   temperature 0: the list of likeliest tokens, of length 1
//   stream   Gumbel noise, nothing cut: one score per token while the chunks pass by
//   list     top_k <= kMaxTopK: everything happens among the list's tokens
//   whole    else the row is kept: top_p cuts it, a categorical draw walks through it
#include <algorithm>
#include <cmath>

#include "cpu/head_stats.h"
#include "noema/rng.h"

namespace noema::cpu {

namespace {

enum class Path { greedy, stream, list, whole };

/// A token in the running, and its share of the tempered mass (relative to the likeliest).
struct Weighted {
    float value;
    int32_t id;
    float mass;
};

bool before(const Weighted& a, const Weighted& b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

double mass_of(const Weighted* w, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += w[i].mass;
    return sum;
}

/// Moves the likeliest tokens that together reach `goal` to the front and returns their number. Halves the interval that
/// holds the cut; w's order is total, so the set does not depend on how.
int64_t cut_to_mass(Weighted* w, int64_t n, double goal) {
    int64_t low = 0, high = n;
    double mass = 0;
    while (high - low > 64) {
        const int64_t middle = (low + high) / 2;
        std::nth_element(w + low, w + middle, w + high, before);
        const double part = mass_of(w + low, middle - low);
        if (mass + part >= goal) {
            high = middle;
        } else {
            mass += part;
            low = middle;
        }
    }
    std::sort(w + low, w + high, before);
    for (; low < high; ++low)
        if ((mass += w[low].mass) >= goal) return low + 1;
    return std::max<int64_t>(high, 1);
}

// The stream path's best score is relative to `max`, the largest logit so far.
struct Noisy {
    GumbelBest best;
    float max;
};

struct Scratch {
    Weighted* tokens;  // as many as may be in the running before the cuts
    int32_t* found;    // kHeadChunk + 16
    float* mass;       // kHeadChunk, or the whole row's when top_p cuts it
};

class Call {
 public:
    explicit Call(const Sample& parameters)
        : p_(parameters),
          R_(p_.rows ? p_.rows.shape[0] : p_.hidden.shape[0]),
          tokens_(p_.weight.view.shape[0] - (p_.excluded_id >= 0)),
          kept_(p_.top_k > 0 && p_.top_k < tokens_ ? p_.top_k : 0),
          path_(path()),
          beta_(std::min(1.0f / p_.temperature, 3e38f)),
          product_({p_.hidden, p_.weight, p_.bias, p_.precision, p_.excluded_id}, R_,
                   path_ == Path::whole ? Keep::rows : Keep::chunk),
          stats_(needs(), product_.block_rows(), p_.excluded_id) {}

    size_t workspace(const Stream& stream) const {
        const int64_t n = stream.threads;
        return workspace_bytes<Noisy>(product_.block_rows()) + workspace_bytes<Weighted>(n * running()) +
               workspace_bytes<int32_t>(n * kFound) + workspace_bytes<float>(n * mass_room()) +
               stats_.workspace(stream) + product_.workspace(stream);
    }

    Status run(const Stream& stream, Workspace workspace) {
        open(stream, workspace);
        for (int64_t first = 0; first < R_; first += product_.block_rows()) {
            const int64_t count = std::min(product_.block_rows(), R_ - first);
            product_.gather(stream, p_.rows ? p_.rows.as<int32_t>() + first : nullptr, first, count);
            for (int64_t row = 0; row < count; ++row) start(row);
            NOEMA_TRY(
                product_.each_chunk(stream, count, [&](int64_t row, const float* x, int64_t id, int64_t n, int worker) {
                    stats_.observe(row, x, id, n, worker);
                    if (path_ == Path::stream) add_noise(first + row, row, x, id, n);
                }));
            HeadProduct::each_row(stream, count, [&](int64_t row, int worker) { finish(first + row, row, worker); });
        }
        return {};
    }

 private:
    static constexpr int64_t kFound = kHeadChunk + 16;

    Path path() const {
        if (p_.temperature == 0) return Path::greedy;
        if (kept_ > 0 && kept_ <= kMaxTopK) return Path::list;
        return kept_ > 0 || p_.top_p < 1 || p_.kind == SampleKind::categorical ? Path::whole : Path::stream;
    }
    StatsNeeds needs() const {
        StatsNeeds needs = needs_of(p_.out, tokens_);
        needs.best = std::max<int64_t>(needs.best, path_ == Path::greedy ? 1 : path_ == Path::list ? kept_ : 0);
        return needs;
    }
    int64_t running() const { return path_ == Path::list ? kept_ : path_ == Path::whole ? product_.vocabulary() : 0; }
    int64_t mass_room() const {
        return path_ == Path::whole ? std::max(kHeadChunk, product_.vocabulary()) : kHeadChunk;
    }

    void open(const Stream& stream, Workspace& workspace) {
        noisy_ = workspace.take<Noisy>(product_.block_rows());
        scratch_.tokens = workspace.take<Weighted>(stream.threads * running());
        scratch_.found = workspace.take<int32_t>(stream.threads * kFound);
        scratch_.mass = workspace.take<float>(stream.threads * mass_room());
        stats_.open(workspace, stream);
        product_.open(workspace);
    }
    Scratch scratch(int worker) const {
        return {scratch_.tokens + worker * running(), scratch_.found + worker * kFound,
                scratch_.mass + worker * mass_room()};
    }

    void start(int64_t row) {
        stats_.start(row);
        noisy_[row] = {{-HUGE_VALF, stats_.first_token(), NAN}, -HUGE_VALF};
    }
    void add_noise(int64_t r, int64_t row, const float* x, int64_t id, int64_t n) {
        const float max = stats_.state(row).max;
        Noisy& noisy = noisy_[row];
        if (stats_.state(row).broken()) return;
        noisy.best.score -= (max - noisy.max) * beta_;
        noisy.max = max;
        gumbel_best(gumbel_row(r, max), x, n, static_cast<int32_t>(id), noisy.best);
    }
    GumbelRow gumbel_row(int64_t r, float max) const { return {seed(r), step(r), position(r), max, beta_}; }
    uint64_t seed(int64_t r) const { return static_cast<uint64_t>(p_.seeds.as<int64_t>()[r]); }
    uint32_t step(int64_t r) const { return static_cast<uint32_t>(p_.steps ? p_.steps.as<int32_t>()[r] : p_.step); }
    uint32_t position(int64_t r) const { return static_cast<uint32_t>(p_.positions.as<int32_t>()[r]); }
    float uniform(int64_t r, int32_t lane) const {
        return rng_uniform(seed(r), RngStream::token, step(r), position(r), static_cast<uint32_t>(lane));
    }

    void finish(int64_t r, int64_t row, int worker) {
        stats_.finish(row);
        stats_.write(p_.out, r, row);
        const Candidate chosen =
            stats_.state(row).broken() ? Candidate{NAN, stats_.first_token()} : choose(r, row, scratch(worker));
        p_.tokens.as<int32_t>()[r] = chosen.id;
        if (p_.logit) p_.logit.as<float>()[r] = chosen.value;
    }

    Candidate choose(int64_t r, int64_t row, const Scratch& scratch) {
        if (path_ == Path::greedy) return stats_.best(row).items[0];
        if (path_ == Path::stream) return {noisy_[row].best.logit, noisy_[row].best.id};
        if (path_ == Path::list) return from_list(r, row, scratch.tokens);
        cut_row(row, scratch);
        return p_.kind == SampleKind::gumbel ? noisy_choice(r, row) : walk(r, row, scratch.mass);
    }

    Weighted weighted(float value, int32_t id, float max) const { return {value, id, std::exp((value - max) * beta_)}; }

    Candidate from_list(int64_t r, int64_t row, Weighted* tokens) const {
        const TopList& list = stats_.best(row);
        const float max = stats_.state(row).max;
        for (int64_t i = 0; i < kept_; ++i) tokens[i] = weighted(list.items[i].value, list.items[i].id, max);
        const int64_t n = p_.top_p < 1 ? cut_to_mass(tokens, kept_, p_.top_p * mass_of(tokens, kept_)) : kept_;
        std::sort(tokens, tokens + n, [](const Weighted& a, const Weighted& b) { return a.id < b.id; });
        return p_.kind == SampleKind::gumbel ? noisy_of(r, tokens, n, max) : walk_list(r, tokens, n);
    }
    Candidate noisy_of(int64_t r, const Weighted* tokens, int64_t n, float max) const {
        Candidate best{tokens[0].value, tokens[0].id};
        float best_score = -HUGE_VALF;
        for (int64_t i = 0; i < n; ++i) {
            const float score = (tokens[i].value - max) * beta_ - std::log(-std::log(uniform(r, tokens[i].id)));
            if (!(score > best_score)) continue;
            best_score = score;
            best = {tokens[i].value, tokens[i].id};
        }
        return best;
    }
    Candidate walk_list(int64_t r, const Weighted* tokens, int64_t n) const {
        const double goal = uniform(r, 0) * mass_of(tokens, n);
        double sum = 0;
        for (int64_t i = 0; i < n; ++i)
            if ((sum += tokens[i].mass) > goal) return {tokens[i].value, tokens[i].id};
        return {tokens[n - 1].value, tokens[n - 1].id};
    }

    // Takes from the row what top_k and top_p take.
    void cut_row(int64_t row, const Scratch& scratch) {
        if (kept_ > 0) return cut_to_top_k(row, scratch.tokens);
        if (p_.top_p < 1) cut_to_top_p(row, scratch);
    }
    void cut_to_top_k(int64_t row, Weighted* tokens) {
        float* x = product_.logits(row, 0);
        const int64_t V = product_.vocabulary();
        int64_t n = 0;
        for (int64_t id = 0; id < V; ++id)
            if (id != p_.excluded_id) tokens[n++] = weighted(x[id], static_cast<int32_t>(id), stats_.state(row).max);
        std::nth_element(tokens, tokens + kept_ - 1, tokens + n, before);
        n = p_.top_p < 1 ? cut_to_mass(tokens, kept_, p_.top_p * mass_of(tokens, kept_)) : kept_;
        std::fill(x, x + V, -HUGE_VALF);
        for (int64_t i = 0; i < n; ++i) x[tokens[i].id] = tokens[i].value;
    }

    // The logit at which the likeliest tokens reach the mass is halved in, so that only the few between the last two
    // bounds need sorting. Tokens with less than a V-th of what top_p gives away are out from the start: together they
    // have less than that.
    void cut_to_top_p(int64_t row, const Scratch& scratch) {
        const float max = stats_.state(row).max;
        const int64_t V = product_.vocabulary();
        float* x = product_.logits(row, 0);
        const double mass = tempered_mass(row, scratch.mass, V);
        const double least = 0.99 * (1 - static_cast<double>(p_.top_p)) * mass / static_cast<double>(V);
        Bounds b{std::nextafter(static_cast<float>(max + std::log(least) / beta_), -HUGE_VALF),
                 std::nextafter(max, HUGE_VALF), 0};
        narrow(x, scratch.mass, p_.top_p * mass, b);
        const int64_t n = between(x, b, scratch);
        const int64_t kept = n > 0 ? cut_to_mass(scratch.tokens, n, p_.top_p * mass - b.mass_above) : 0;
        drop_below(x, V, b.high);
        for (int64_t i = 0; i < kept; ++i) x[scratch.tokens[i].id] = scratch.tokens[i].value;
    }
    struct Bounds {
        float low, high;    // tokens from `low` reach the goal, those from `high` do not
        double mass_above;  // of those from `high`
    };
    void narrow(const float* x, const float* mass, double goal, Bounds& b) const {
        const int64_t V = product_.vocabulary();
        for (int halving = 0; halving < 12; ++halving) {
            const float middle = b.low + (b.high - b.low) / 2;
            if (!(middle > b.low && middle < b.high)) return;
            double above = 0;
            for (int64_t id = 0; id < V; id += kHeadChunk)
                above += mass_above(x + id, mass + id, std::min(kHeadChunk, V - id), middle);
            if (above >= goal) {
                b.low = middle;
            } else {
                b.high = middle;
                b.mass_above = above;
            }
        }
    }
    int64_t between(const float* x, const Bounds& b, const Scratch& scratch) const {
        const int64_t V = product_.vocabulary();
        int64_t n = 0;
        for (int64_t id = 0; id < V; id += kHeadChunk) {
            const int64_t found = collect(x + id, std::min(kHeadChunk, V - id), b.low, true, scratch.found);
            for (int64_t i = 0; i < found; ++i) {
                const int64_t at = id + scratch.found[i];
                if (x[at] < b.high && at != p_.excluded_id)
                    scratch.tokens[n++] = {x[at], static_cast<int32_t>(at), scratch.mass[at]};
            }
        }
        return n;
    }
    // Chunk after chunk into the same place, or one behind the other when `room` is the whole row's.
    double tempered_mass(int64_t row, float* mass, int64_t room) const {
        const int64_t V = product_.vocabulary();
        double sum = 0;
        for (int64_t id = 0; id < V; id += kHeadChunk)
            sum += tempered(product_.logits(row, id), std::min(kHeadChunk, V - id), stats_.state(row).max, beta_,
                            room < V ? mass : mass + id);
        return sum;
    }

    Candidate noisy_choice(int64_t r, int64_t row) const {
        GumbelBest best{-HUGE_VALF, stats_.first_token(), NAN};
        gumbel_best(gumbel_row(r, stats_.state(row).max), product_.logits(row, 0), product_.vocabulary(), 0, best);
        return {best.logit, best.id};
    }
    // The first token whose cumulative mass exceeds u of the total: its chunk, then itself.
    Candidate walk(int64_t r, int64_t row, float* chunk_mass) const {
        const int64_t V = product_.vocabulary();
        const double goal = uniform(r, 0) * tempered_mass(row, chunk_mass, kHeadChunk);
        double before_chunk = 0;
        for (int64_t id = 0; id < V; id += kHeadChunk) {
            const int64_t n = std::min(kHeadChunk, V - id);
            const float* x = product_.logits(row, id);
            const float mass = tempered(x, n, stats_.state(row).max, beta_, chunk_mass);
            if (before_chunk + mass > goal) return walk_chunk(x, id, {chunk_mass, n, goal - before_chunk});
            before_chunk += mass;
        }
        return {NAN, stats_.first_token()};
    }
    struct Remaining {
        const float* mass;
        int64_t n;
        double goal;
    };
    // The chunk's sum, made in vectors, may exceed this one by a rounding: then it is the last token with any mass.
    static Candidate walk_chunk(const float* x, int64_t first, const Remaining& rest) {
        double sum = 0;
        int64_t at = 0;
        for (int64_t i = 0; i < rest.n && !(sum > rest.goal); ++i) {
            if (rest.mass[i] > 0) at = i;
            sum += rest.mass[i];
        }
        return {x[at], static_cast<int32_t>(first + at)};
    }

    const Sample& p_;
    int64_t R_, tokens_, kept_;
    Path path_;
    float beta_;
    HeadProduct product_;
    HeadStats stats_;
    Noisy* noisy_ = nullptr;
    Scratch scratch_{};
};

size_t workspace_size(const Sample& p, const Stream& stream) {
    return Call(p).workspace(stream);
}

Status run(const Sample& p, const Stream& stream, Workspace workspace) {
    return Call(p).run(stream, workspace);
}

}  // namespace

Op<Sample> sample_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cpu
