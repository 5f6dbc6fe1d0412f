// mixture_rosenblatt_inverse: scalar after scalar, of as many tokens side by side as a vector has lanes (fewer where components are many):
// each scalar is one search of probit_root-inl.h, in double. mixture_rosenblatt of wide states is one evaluation of the same.
// mixture_rosenblatt_draw: one component for the whole token.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_rosenblatt_inverse.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/cpu.h"
#include "cpu/rosenblatt-inl.h"
#include "cpu/wide_state.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// log of the normal distribution beyond the next integer after |u|: where a tail's components are cut, whether u is given or just found.
double log_tail(double u) {
    const double a = std::ceil(std::fabs(u));
    return hn::GetLane(log_positive(tail_factor(hn::Set(DW(), a)))) - 0.5 * a * a;
}

/// Tokens side by side, scalar after scalar. Forward and inverse evaluate F by the same steps, among the same components.
class Tokens {
 public:
    Tokens(const ComponentTable& table, const WideMemory& memory, const View& logits, int64_t row, int64_t n)
        : row_(row), n_(n) {
        for (int64_t lane = 0; lane < n; ++lane) {
            posterior_[lane] = Posterior<double>(table, memory.posterior(lane));
            components_[lane] = Components(memory.components(lane), table.K + 2 * kWideLanes);
            posterior_[lane].start(logits.at<const float>(row + lane));
            failed[lane] = evaluations[lane] = 0;
        }
    }

    /// Scalar i of z from that of u.
    void invert(const View& u, const View& z, int64_t i, double grid) {
        Search s = {};
        for (int64_t lane = 0; lane < n_; ++lane) s.active[lane] = prepare(s, lane, load_state(u, row_ + lane, i));
        search(s, components_, n_);
        for (int64_t lane = 0; lane < n_; ++lane) {
            const bool sought = s.evaluations[lane] > 0;
            const double x = store_state(z, row_ + lane, i, sought ? s.x.of[lane] : NAN, grid);
            failed[lane] += !(sought && !s.active[lane] && std::isfinite(x));
            evaluations[lane] += s.evaluations[lane];
            if (!posterior_[lane].broken()) posterior_[lane].pass(x);
        }
    }

    /// u of scalar i, whose value is z's. The tail's components, where u is far, are those that the inverse will see.
    void pass(const View& z, int64_t i, Lanes& u) {
        Search s = {};
        for (int64_t lane = 0; lane < n_; ++lane) {
            s.x.of[lane] = load_state(z, row_ + lane, i);
            if (posterior_[lane].broken()) continue;
            posterior_[lane].gather(components_[lane]);
            evaluate(components_[lane], s, lane);
        }
        u.set(probit_of(s, false).z);
        bool any_far = false, any = false;
        for (int64_t lane = 0; lane < n_; ++lane) {
            const double a = std::fabs(u.of[lane]);
            if (posterior_[lane].broken() || !(a > kPrunedWithin)) continue;
            posterior_[lane].gather_far(components_[lane], log_tail(a));
            s.u.of[lane] = u.of[lane];
            any = true, any_far |= a > kFar;
            if (a > kFar)
                evaluate_far(components_[lane], s, lane);
            else
                evaluate(components_[lane], s, lane);
        }
        Lanes far;
        if (any) far.set(probit_of(s, any_far).z);
        for (int64_t lane = 0; lane < n_; ++lane) {
            if (posterior_[lane].broken()) u.of[lane] = NAN;
            // What more components bring back to where they do not count stays just outside; what is no number stays none.
            const double edge = std::nextafter(static_cast<double>(kPrunedWithin), HUGE_VAL), a = std::fabs(u.of[lane]);
            if (a > kPrunedWithin) u.of[lane] = std::copysign(std::max(std::fabs(far.of[lane]), edge), u.of[lane]);
            if (!posterior_[lane].broken()) posterior_[lane].pass(s.x.of[lane]);
        }
    }

    double weight(int64_t lane) const { return posterior_[lane].broken() ? NAN : posterior_[lane].weight(); }
    double log_density(int64_t lane, double first) const {
        return posterior_[lane].broken() ? NAN : posterior_[lane].log_density(first);
    }

    int32_t failed[kWideLanes], evaluations[kWideLanes];

 private:
    /// Prepares the search for a token's next scalar; false where there is none to find.
    bool prepare(Search& s, int64_t lane, double u) {
        if (posterior_[lane].broken() || !std::isfinite(u)) return false;
        Components& of = components_[lane];
        if (std::fabs(u) > kPrunedWithin)
            posterior_[lane].gather_far(of, log_tail(u));
        else
            posterior_[lane].gather(of);
        s.u.of[lane] = u;
        s.far[lane] = std::fabs(u) > kFar;
        bracket(of, s, lane);
        find_start(of, s, lane);
        return true;
    }

    int64_t row_, n_;
    Posterior<double> posterior_[kWideLanes];
    Components components_[kWideLanes];
};

/// f(row, n) for as many tokens at a time as go side by side.
template <class F>
void each_group(const ComponentTable& table, int64_t first, int64_t last, const F& f) {
    const int64_t most = std::min<int64_t>(kWideLanes, WideMemory::tokens(table.K));
    for (int64_t row = first; row < last; row += most) f(row, std::min(most, last - row));
}

void inverse_rows(const MixtureRosenblattInverse& p, const ComponentTable& table, const WideMemory& memory,
                  int64_t first, int64_t last) {
    each_group(table, first, last, [&](int64_t row, int64_t n) HWY_ATTR {
        Tokens tokens(table, memory, p.logits, row, n);
        for (int64_t i = 0; i < table.d; ++i) tokens.invert(p.u, p.z, i, p.grid);
        for (int64_t lane = 0; lane < n; ++lane) {
            if (p.failed) p.failed.as<int32_t>()[row + lane] = tokens.failed[lane];
            if (p.evaluations) p.evaluations.as<int32_t>()[row + lane] = tokens.evaluations[lane];
        }
    });
}

void wide_rows(const MixtureRosenblatt& p, const ComponentTable& table, const WideMemory& memory, int64_t first,
               int64_t last) {
    each_group(table, first, last, [&](int64_t row, int64_t n) HWY_ATTR {
        Tokens tokens(table, memory, p.logits, row, n);
        double before[kWideLanes], log_normal[kWideLanes] = {};
        for (int64_t lane = 0; lane < n; ++lane) before[lane] = tokens.weight(lane);
        for (int64_t i = 0; i < table.d; ++i) {
            Lanes u;
            tokens.pass(p.z, i, u);
            for (int64_t lane = 0; lane < n; ++lane) {
                log_normal[lane] -= 0.5 * u.of[lane] * u.of[lane] + 0.91893853320467274178;
                if (p.u) store_state(p.u, row + lane, i, u.of[lane], p.grid);
            }
        }
        for (int64_t lane = 0; lane < n; ++lane) {
            const double density = tokens.log_density(lane, before[lane]);
            if (p.log_density) p.log_density.as<float>()[row + lane] = static_cast<float>(density);
            if (p.log_det) p.log_det.as<float>()[row + lane] = static_cast<float>(density - log_normal[lane]);
        }
    });
}

/// Weights are added up by chunks, and one by one in the chunk that decides.
constexpr int64_t kChunk = 256;

/// exp(logit - most) of a chunk's components, and their sum.
float weights_of(const float* logits, int64_t n, float most, float (&weights)[kChunk]) {
    VF sum = hn::Zero(DF());
    for_each_vector(n, [&](auto load, auto store, int64_t k) HWY_ATTR {
        const VF x = hn::Sub(load(logits), hn::Set(DF(), most)), w = keep_nan(exp_nonpositive(x), x);
        store(w, weights);
        const size_t left = static_cast<size_t>(n - k);
        sum = hn::Add(sum, left < hn::Lanes(DF()) ? hn::IfThenElseZero(hn::FirstN(DF(), left), w) : w);
    });
    return sum_of(sum);
}

/// The first component up to which the weights reach `uniform` of their sum; -1 if that is no number.
int64_t component_of(const float* logits, int64_t K, float uniform) {
    float weights[kChunk], most = -HUGE_VALF;
    for (int64_t k = 0; k < K; ++k) most = most < logits[k] ? logits[k] : most;
    const auto sum_at = [&](int64_t k) HWY_ATTR {
        return static_cast<double>(weights_of(logits + k, std::min(kChunk, K - k), most, weights));
    };
    double all = 0, reached = 0, before = 0;
    for (int64_t k = 0; k < K; k += kChunk) all += sum_at(k);
    const double goal = uniform * all;
    if (!(goal == goal)) return -1;
    int64_t chunk = 0, found = 0;
    for (int64_t k = 0; k < K && (k == 0 || reached < goal); k += kChunk) {
        const double sum = sum_at(k);
        if (sum > 0) chunk = k, before = reached;
        reached += sum;
    }
    sum_at(chunk);
    for (int64_t k = 0; k < std::min(kChunk, K - chunk); ++k) {
        before += static_cast<double>(weights[k]);
        if (weights[k] > 0) found = chunk + k;
        if (weights[k] > 0 && before >= goal) break;
    }
    return found;
}

void draw_rows(const MixtureRosenblattDraw& p, int64_t first, int64_t last) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    for (int64_t r = first; r < last; ++r) {
        const int64_t k = component_of(p.logits.at<const float>(r), K, p.uniform.as<const float>()[r]);
        const float *mean = p.mean.at<const float>(k < 0 ? 0 : k), *normal = p.normal.at<const float>(r);
        const VF sigma = hn::Set(DF(), k < 0 ? NAN : std::exp(p.log_sigma.as<const float>()[k]));
        float* z = p.z.at<float>(r);
        for_each_vector(
            d, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::MulAdd(sigma, load(normal), load(mean)), z); });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(inverse_rows);
HWY_EXPORT(wide_rows);
HWY_EXPORT(draw_rows);

namespace {

size_t workspace(const MixtureRosenblattInverse& p, const Stream& stream) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(K, d) + workspace_bytes<double>(WideMemory::doubles(K, d) * stream.threads);
}

Status run(const MixtureRosenblattInverse& p, const Stream& stream, Workspace w) {
    const ComponentTable table = component_table(p.mean, p.log_sigma, stream, w);
    const int64_t R = p.u.shape[0], rows = WideMemory::tokens(table.K), doubles = WideMemory::doubles(table.K, table.d);
    double* memory = w.take<double>(doubles * stream.threads);
    parallel_for(stream, ceil_div(R, rows), [&](int64_t i, int worker) {
        invert_tokens(p, table, {memory + worker * doubles, table.K, table.d}, i * rows, std::min(R, (i + 1) * rows));
    });
    return {};
}

Status run_draw(const MixtureRosenblattDraw& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.z.shape[0], 2 * p.logits.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(draw_rows)(p, first, last);
    });
    return {};
}

}  // namespace

void invert_tokens(const MixtureRosenblattInverse& p, const ComponentTable& table, const WideMemory& memory,
                   int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(inverse_rows)(p, table, memory, first, last);
}
void pass_wide_tokens(const MixtureRosenblatt& p, const ComponentTable& table, const WideMemory& memory, int64_t first,
                      int64_t last) {
    HWY_DYNAMIC_DISPATCH(wide_rows)(p, table, memory, first, last);
}

Op<MixtureRosenblattInverse> mixture_rosenblatt_inverse_entry() {
    return {run, workspace};
}
Op<MixtureRosenblattDraw> mixture_rosenblatt_draw_entry() {
    return {run_draw, nullptr};
}

}  // namespace noema::cpu
#endif
