// With x_ki = (z_i - mean_ki) / sigma_k, T_i the smaller tail, and every log weight log a_ki a sum over the scalars before i: scalar i has a
// gradient by log a_ki, e_ki = d u_i (share of T_i - share of the weights) / T_i's rate, and one by x_ki directly, c_ki; what comes after
// scalar j moves x_kj by -x_kj E_kj, E_kj = sum_{i > j} e_ki + w (the last posterior)_k. Given each scalar's sums, components are
// independent of each other. All of them meet scalar 0; of later ones, those that the posterior ever followed.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_rosenblatt_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "cpu/cpu.h"
#include "cpu/rosenblatt-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

/// A posterior weight under e^-45 passes nothing on; where a scalar is far out, under e^-45 of its tail.
constexpr float kNegligibleWeight = -45.0f;

/// One scalar's sums, as its components' gradients need them.
struct Upstream {
    float by_share, by_weight;  // e = by_share (part of the tail) - by_weight (weight)
    float by_bell;              // c = by_bell (weight exp(-x²/2))
    float lower;                // 1: the lower tail is the smaller one; else -1
    float exponent;             // of the tail, where plain sums would leave the floats; else 0
};

/// A scalar's e and c for one vector of components.
struct Pull {
    VF by_weight, by_distance;
};

HWY_INLINE Pull plain_pull(const Upstream& s, const Near& near) {
    const DF d;
    const Shares<VF> share = shares_of(near.x, exp_nonpositive(near.x), near.distance);
    const VF tail = s.lower > 0 ? share.below : share.above;
    return {hn::MulSub(hn::Set(d, s.by_share), tail, hn::Mul(hn::Set(d, s.by_weight), share.weight)),
            hn::Mul(hn::Set(d, s.by_bell), share.bell)};
}

/// The same relative to the tail's largest term, which any component may have.
HWY_NOINLINE Pull far_pull(const Upstream& s, const Near& near) {
    const DF d;
    const VF distance = hn::Mul(within_squares(near.distance), hn::Set(d, s.lower)), top = hn::Set(d, s.exponent);
    const Exponents<VF> e = exponents_of(near.x, distance);
    const VF factor = tail_factor(hn::Abs(distance));
    const VF rest = hn::NegMulAdd(factor, bell(within_bell(distance)), hn::Set(d, 1.0f));
    const VF part =
        hn::Mul(exp_nonpositive(hn::Sub(e.below, top)), hn::IfThenElse(hn::Lt(distance, hn::Zero(d)), factor, rest));
    const VF weight = exp_nonpositive(near.x), density = exp_nonpositive(hn::Sub(e.density, top));
    const VF by_weight = hn::MulSub(hn::Set(d, s.by_share), part, hn::Mul(hn::Set(d, s.by_weight), weight));
    return {by_weight, hn::Mul(hn::Set(d, s.by_bell), density)};
}

HWY_INLINE Pull pull_of(const Upstream& s, const Near& near) {
    if (s.exponent < 0) return far_pull(s, near);
    if (!any_unpruned(near.x)) return {hn::Zero(DF()), hn::Zero(DF())};
    return plain_pull(s, near);
}

/// One token on its way back.
class Token {
 public:
    Token(const RosenblattBackward& b, const TokenMemory& memory, const BackwardMemory& more, float* part)
        : b_(b),
          t_(b.table),
          memory_(memory),
          more_(more),
          part_(part),
          posterior_(b.table, memory.posterior, more.met),
          scratch_(memory.components, b.table.K + kLanes),
          sums_(memory.sums, memory.scalars) {}

    void run(int64_t r) {
        r_ = r;
        z_ = b_.p.z.at<const float>(r);
        logits_ = b_.p.logits.at<const float>(r);
        const float d_log_det = number(b_.p.d_log_det);
        by_log_density_ = number(b_.p.d_log_density) + d_log_det;
        double log_density;
        token_sums(posterior_, logits_, z_, t_.d, scratch_, sums_, 0, log_density, weight_);
        if (posterior_.broken()) return give_up();
        find_upstream(d_log_det);
        find_reach();
        std::memset(vectors(3), 0, sizeof(float) * static_cast<size_t>(t_.d * kLanes));
        later_scalars();
        first_scalar();
        for (int64_t i = 0; i < t_.d; ++i) b_.p.d_z.at<float>(r)[i] = sum_of(hn::LoadU(DF(), vectors(3) + i * kLanes));
    }

 private:
    float number(const View& v) const { return v ? v.as<const float>()[r_] : 0.0f; }
    float* numbers(int64_t which) const { return more_.numbers + which * whole_vectors(t_.d + 1); }
    float* vectors(int64_t which) const { return more_.vectors + which * t_.d * kMostLanes; }
    Upstream upstream(int64_t i) const {
        return {numbers(0)[i], numbers(1)[i], numbers(2)[i], numbers(3)[i], numbers(4)[i]};
    }

    void give_up() const {
        for (int64_t i = 0; i < t_.d; ++i) b_.p.d_z.at<float>(r_)[i] = NAN;
        for (int64_t k = 0; k < t_.K; ++k) b_.p.d_logits.at<float>(r_)[k] = NAN;
    }

    void find_upstream(float d_log_det) const {
        const DF d;
        for (int64_t i = 0; i < t_.d; i += kLanes) {
            const size_t n = static_cast<size_t>(t_.d - i < kLanes ? t_.d - i : kLanes);
            const MixtureSums s = sums_.load(i);
            const Mapped m = map_of(s);
            const VF d_u = b_.p.d_u ? load_n(d, b_.p.d_u.at<const float>(r_) + i, n) : hn::Zero(d);
            const auto lower = hn::MaskFromVec(m.lower);
            const VF one = hn::Set(d, 1.0f), side = hn::IfThenElse(lower, one, hn::Neg(one));
            const VF rate = hn::Mul(hn::MulAdd(m.u, hn::Set(d, d_log_det), d_u), m.mills), e = hn::Mul(rate, side);
            const VF tail = hn::Div(one, hn::IfThenElse(lower, s.below, s.above));
            hn::StoreU(hn::Mul(e, tail), d, numbers(0) + i);
            hn::StoreU(hn::Div(e, s.weight), d, numbers(1) + i);
            hn::StoreU(hn::Mul(hn::Mul(rate, tail), hn::Set(d, 0.39894228040f)), d, numbers(2) + i);
            hn::StoreU(side, d, numbers(3) + i);
            hn::StoreU(hn::IfThenElse(lower, s.below_exponent, s.above_exponent), d, numbers(4) + i);
        }
    }

    /// d += x for the components [k, k + lanes) (all) or of the list of those met.
    HWY_INLINE void add(float* row, VF x, int64_t k, int64_t n) const {
        const DF d;
        if (posterior_.met() < 0) {
            hn::StoreU(hn::Add(hn::LoadU(d, row + k), x), d, row + k);
            return;
        }
        HWY_ALIGN float lanes[kLanes];
        hn::Store(x, d, lanes);
        for (int64_t lane = 0; lane < n; ++lane) row[more_.met[k + lane]] += lanes[lane];
    }

    /// How far log weights may still rise, relative to the largest or to the tail of a scalar that is far out, from scalar i on.
    void find_reach() const {
        float* reach = numbers(5);
        float most = 0, tail = 0;
        for (int64_t i = t_.d; i >= 0; --i) {
            if (i < t_.d) tail = std::fmin(tail, numbers(4)[i]);
            reach[i] = most - tail;
            most = std::fmax(0.0f, most + t_.peak - posterior_.most(i));
        }
    }

    /// Components [k, k + n) of all or of the list: how they met the scalars, in vectors(0 to 2): x, e, c. The last posterior. `met`: how many
    /// scalars, for components that can come to nothing any more meet none.
    HWY_INLINE VF walk(int64_t k, int64_t n, VF& inverse, int64_t& met) const {
        const DF d;
        const hn::RebindToSigned<DF> di;
        const bool all = posterior_.met() < 0;
        const auto index = hn::LoadU(di, more_.met + k);
        const auto inside = hn::FirstN(d, static_cast<size_t>(n));
        const auto pick = [&](const float* row)
                              HWY_ATTR { return all ? hn::LoadU(d, row + k) : hn::GatherIndex(d, row, index); };
        const VF logit = all ? hn::MaskedLoad(inside, d, logits_ + k) : hn::GatherIndex(d, logits_, index);
        VF y = hn::IfThenElse(inside, logit, hn::Set(d, -HUGE_VALF));
        inverse = pick(t_.inv_sigma);
        const VF peak = pick(t_.neg_log_sigma);
        for (met = 0; met < t_.d; ++met) {
            const int64_t i = met;
            const VF x = hn::Sub(y, hn::Set(d, posterior_.most(i)));
            if (i > 0 && hn::AllTrue(d, hn::Lt(x, hn::Set(d, kNegligibleWeight - numbers(5)[i])))) return hn::Zero(d);
            const VF r = hn::Mul(hn::Sub(hn::Set(d, z_[i]), pick(t_.mean_of(i))), inverse);
            Pull pull{hn::Zero(d), hn::Zero(d)};
            if (i > 0) pull = pull_of(upstream(i), {x, r, inverse});
            hn::StoreU(r, d, vectors(0) + i * kLanes);
            hn::StoreU(pull.by_weight, d, vectors(1) + i * kLanes);
            hn::StoreU(pull.by_distance, d, vectors(2) + i * kLanes);
            y = hn::Add(x, hn::NegMulAdd(hn::Mul(r, hn::Set(d, 0.5f)), r, peak));
        }
        return exp_nonpositive(hn::Sub(y, hn::Set(d, posterior_.most(t_.d))));
    }

    /// Everything but what scalar 0 passes on directly; what is for the logits is kept for first_scalar().
    void later_scalars() const {
        const DF d;
        const int64_t count = posterior_.met() < 0 ? t_.K : posterior_.met();
        const VF by_last = hn::Set(d, by_log_density_ / posterior_.weight());
        float* kept = memory_.posterior.kept;
        for (int64_t k = 0; k < count; k += kLanes) {
            const int64_t n = count - k < kLanes ? count - k : kLanes;
            VF inverse;
            int64_t met;
            VF later = hn::Mul(by_last, walk(k, n, inverse, met)), stretch = hn::Zero(d);
            for (int64_t j = met - 1; j >= 0; --j) {
                const VF r = hn::LoadU(d, vectors(0) + j * kLanes);
                const VF by_x = hn::NegMulAdd(r, later, hn::LoadU(d, vectors(2) + j * kLanes));
                const VF by_z = hn::Mul(by_x, inverse);
                hn::StoreU(hn::Add(hn::LoadU(d, vectors(3) + j * kLanes), by_z), d, vectors(3) + j * kLanes);
                if (part_) add(part_ + j * b_.sums.stride, hn::Neg(by_z), k, n);
                stretch = hn::Sub(stretch, hn::MulAdd(r, by_x, later));
                later = hn::Add(later, hn::LoadU(d, vectors(1) + j * kLanes));
            }
            if (part_) add(part_ + t_.d * b_.sums.stride, stretch, k, n);
            hn::StoreU(later, d, kept + k);
        }
    }

    void first_scalar() const {
        const DF d;
        const Upstream up = upstream(0);
        const bool all = posterior_.met() < 0;
        float *to = b_.p.d_logits.at<float>(r_), *kept = memory_.posterior.kept, *d_z = vectors(3);
        const VF most = hn::Set(d, posterior_.most(0)), z = hn::Set(d, z_[0]);
        const VF by_prior = hn::Set(d, by_log_density_ / weight_);
        VF by_z = hn::LoadU(d, d_z);
        for (int64_t k = 0; k < t_.K; k += kLanes) {
            const size_t n = static_cast<size_t>(t_.K - k < kLanes ? t_.K - k : kLanes);
            const VF logit = hn::IfThenElse(hn::FirstN(d, n), load_n(d, logits_ + k, n), hn::Set(d, -HUGE_VALF));
            const VF inverse = hn::LoadU(d, t_.inv_sigma + k), x = hn::Sub(logit, most);
            const VF r = hn::Mul(hn::Sub(z, hn::LoadU(d, t_.mean_of(0) + k)), inverse);
            const Pull pull = pull_of(up, {x, r, inverse});
            VF by_logit = hn::NegMulAdd(by_prior, exp_nonpositive(x), pull.by_weight);
            if (all) by_logit = hn::Add(by_logit, hn::LoadU(d, kept + k));
            store_n(by_logit, d, to + k, n);
            const VF direct = hn::Mul(pull.by_distance, inverse);
            by_z = hn::Add(by_z, direct);
            if (!part_) continue;
            float *mean = part_ + k, *stretch = part_ + t_.d * b_.sums.stride + k;
            hn::StoreU(hn::Sub(hn::LoadU(d, mean), direct), d, mean);
            hn::StoreU(hn::NegMulAdd(r, pull.by_distance, hn::LoadU(d, stretch)), d, stretch);
        }
        hn::StoreU(by_z, d, d_z);
        for (int64_t k = 0; k < posterior_.met(); ++k) to[more_.met[k]] += kept[k];
    }

    const RosenblattBackward& b_;
    const ComponentTable& t_;
    const TokenMemory& memory_;
    const BackwardMemory& more_;
    float* part_;  // this chunk's sums for the table, or null
    Posterior<float> posterior_;
    Components scratch_;
    ScalarSums sums_;
    int64_t r_ = 0;
    const float *z_ = nullptr, *logits_ = nullptr;
    float by_log_density_ = 0, weight_ = 0;
};

void backward_rows(const RosenblattBackward& b, const TokenMemory& memory, const BackwardMemory& more, int64_t chunk) {
    float* part = b.sums.count ? b.sums.part(chunk) : nullptr;
    if (part) std::memset(part, 0, sizeof(float) * static_cast<size_t>((b.table.d + 1) * b.sums.stride));
    Token token(b, memory, more, part);
    const int64_t last = std::min(b.p.z.shape[0], (chunk + 1) * b.chunk);
    for (int64_t r = chunk * b.chunk; r < last; ++r) token.run(r);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(backward_rows);

namespace {

/// Rows per chunk: 20 microseconds' worth, but the chunks' own sums shall not take more than 64 MB together.
int64_t row_chunk(const MixtureRosenblattBackward& p) {
    const int64_t R = p.z.shape[0], K = p.mean.shape[0], d = p.mean.shape[1];
    const int64_t rows = std::clamp<int64_t>((int64_t{1} << 12) / (K * d), 1, kMostTokens);
    if (!p.d_mean && !p.d_log_sigma) return rows;
    const int64_t most = std::max<int64_t>(1, (int64_t{1} << 24) / ((d + 1) * ComponentTable::stride_of(K)));
    return std::max<int64_t>({rows, 32, ceil_div(R, most)});
}

int64_t sums_of_table(const MixtureRosenblattBackward& p) {
    return p.d_mean || p.d_log_sigma ? ceil_div(p.z.shape[0], row_chunk(p)) : 0;
}

size_t workspace(const MixtureRosenblattBackward& p, const Stream& stream) {
    const int64_t K = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(K, d) + TableSums::bytes(sums_of_table(p), K, d) +
           TokenMemory::bytes(K, d, stream.threads) +
           workspace_bytes<float>(BackwardMemory::floats(K, d) * stream.threads);
}

Status run(const MixtureRosenblattBackward& p, const Stream& stream, Workspace w) {
    const int64_t R = p.z.shape[0];
    if (R == 0) return {};
    const ComponentTable table = component_table(p.mean, p.log_sigma, stream, w);
    const TableSums sums = table_sums(sums_of_table(p), table.K, table.d, w);
    const RosenblattBackward b{p, table, sums, row_chunk(p)};
    float* memory = w.take<float>(TokenMemory::floats(table.K, table.d) * stream.threads);
    float* more = w.take<float>(BackwardMemory::floats(table.K, table.d) * stream.threads);
    parallel_for(stream, ceil_div(R, b.chunk), [&](int64_t i, int worker) {
        HWY_DYNAMIC_DISPATCH(backward_rows)
        (b, TokenMemory(memory, worker, table), BackwardMemory(more, worker, table), i);
    });
    if (sums.count > 0) add_table_sums(sums, p.d_mean, p.d_log_sigma, stream);
    return {};
}

}  // namespace

Op<MixtureRosenblattBackward> mixture_rosenblatt_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
