// The weights of a token's components as its scalars become known: the cpu backend's posterior (posterior-inl.h there), by the threads of a
// block. Warps own neighbouring runs of components, and lists of those of them that are still followed, so that nobody waits for another's
// list. All threads hold the same of what concerns the whole token. In f32 a sweep adds up the tails of the scalar that it passes; in
// double (wide states, searches) they come from the search's function of the components (counted_components.h).
#pragma once

#include <cfloat>
#include <type_traits>

#include "common/component_table.h"
#include "common/reduce.h"
#include "mixture_cdf.h"
#include "noema/ops/mixture_rosenblatt.h"

namespace noema::cuda {

/// What a sweep over the components finds.
template <class Real>
struct Leader {
    Real rest = -INFINITY;  // the largest of those let go
    Real lost = 0;          // 1: some log weight is not a number
    Real most = -INFINITY;  // the largest
    int32_t who = 0;        // whose it is, the lowest of equals

    template <class F>
    __device__ __forceinline__ void each(F f) {
        f(rest), f(lost), f(most), f(who);
    }
    __device__ __forceinline__ void join(const Leader& other) {
        rest = max(rest, other.rest);
        lost = max(lost, other.lost);
        if (other.most > most || (other.most == most && other.who < who)) most = other.most, who = other.who;
    }
};

/// And in f32.
struct Found : Leader<float> {
    float weight = 0, below = 0, above = 0, all = 0;  // relative to the largest; all: those that do not count in F, too

    template <class F>
    __device__ __forceinline__ void each(F f) {
        Leader<float>::each(f);
        f(weight), f(below), f(above), f(all);
    }
    __device__ __forceinline__ void join(const Found& other) {
        Leader<float>::join(other);
        weight += other.weight;
        below += other.below;
        above += other.above;
        all += other.all;
    }
};

/// The threads of a block, and their sums.
template <int threads, class R>
class Team {
 public:
    using Real = R;
    static constexpr int kThreads = threads, kWarps = threads / 32, kScratch = 8 * kWarps;

    __device__ __forceinline__ explicit Team(Shared<Real> scratch) : scratch_(scratch) {}
    static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
    static __device__ __forceinline__ int lane() { return thread() % 32; }
    static __device__ __forceinline__ int warp() { return thread() / 32; }

    __device__ __forceinline__ Real sum(Real x) const { return block_reduce(x, Sum{}, scratch_); }
    __device__ __forceinline__ Real most(Real x) const { return block_reduce(x, Max{}, scratch_); }

    /// All warps' findings, for every thread: the first warp joins what the lanes of each have joined.
    template <class F>
    __device__ __forceinline__ F join(F mine) const {
        join_lanes(mine, 32);
        if constexpr (kWarps > 1) {
            if (lane() == 0) put(warp(), mine);
            __syncthreads();
            if (warp() == 0) {
                get(lane() % kWarps, mine);
                join_lanes(mine, kWarps);
                __syncwarp();
                if (lane() == 0) put(0, mine);
            }
            __syncthreads();
            get(0, mine);
            __syncthreads();
        }
        return mine;
    }

 private:
    template <class F>
    static __device__ __forceinline__ void join_lanes(F& mine, int width) {
        for (int bits = width / 2; bits > 0; bits /= 2) {
            F theirs = mine;
            theirs.each([&](auto& x) { x = __shfl_xor_sync(kAllLanes, x, bits); });
            mine.join(theirs);
        }
    }
    template <class F>
    __device__ __forceinline__ void put(int at, F& f) const {
        f.each([&](const auto& x) {
            scratch_[at] = word(x);
            at += kWarps;
        });
    }
    template <class F>
    __device__ __forceinline__ void get(int at, F& f) const {
        f.each([&](auto& x) {
            unpack(scratch_[at], x);
            at += kWarps;
        });
    }
    static __device__ __forceinline__ Real word(Real x) { return x; }
    static __device__ __forceinline__ Real word(int32_t x) {
        if constexpr (sizeof(Real) == sizeof x)
            return __int_as_float(x);
        else
            return x;
    }
    static __device__ __forceinline__ void unpack(Real word, Real& x) { x = word; }
    static __device__ __forceinline__ void unpack(Real word, int32_t& x) {
        if constexpr (sizeof(Real) == sizeof x)
            x = __float_as_int(word);
        else
            x = static_cast<int32_t>(word);
    }

    Shared<Real> scratch_;
};

/// As on the cpu: what is followed, and when all are looked at again.
constexpr float kFollowed = 52.0f, kSlack = 36.0f;

/// Far out, components under e^-27 of the tail itself are not seen in it: 50257 of them are 1e-7 of it. In double, 1e-11 of it.
template <class Real>
constexpr Real kSeenInTail = 27;
template <>
constexpr double kSeenInTail<double> = 36;

/// A component of the weight w (0: it does not count in F) at a distance: its parts of both tails, and w exp(-distance²/2).
struct Shares {
    float weight, below, above, bell;
};
__device__ __forceinline__ Shares shares_of(float x, float weight, float distance) {
    const float w = x >= -kPrunedBelow ? weight : 0.0f, a = bounded(distance, kBellEnd<float>), e = bell(a) * w;
    const float tail = tail_factor(a) * e, rest = w - tail;
    return {w, distance < 0 ? tail : rest, distance < 0 ? rest : tail, e};
}

/// log weight x, relative to the largest before, after a scalar at a distance.
template <class Real>
__device__ __forceinline__ Real weight_after(Real x, Real distance, Real peak) {
    return x + fma(Real(-0.5) * distance, distance, peak);
}

/// Components of a warp.
constexpr int64_t segment_of(int64_t K, int64_t warps) {
    return ceil_div(ceil_div(K, 32), warps) * 32;
}

/// A token's lists in device memory, and its scalars in shared memory.
template <class Real>
struct PosteriorMemory {
    Real* log_weight;  // [warps, segment]
    int32_t* index;
    Shared<Real> most, z;  // [d + 1], [d]

    /// The lists of a block; d scalars.
    __device__ __forceinline__ PosteriorMemory(Real* log_weight, int32_t* index, int d)
        : log_weight(log_weight),
          index(index),
          most(dynamic_shared<Real>(0, d + 1)),
          z(dynamic_shared<Real>(static_cast<int>(sizeof(Real)) * (d + 1), d)) {}
    static size_t shared_bytes(int64_t d) { return sizeof(Real) * static_cast<size_t>(2 * d + 1); }
};

template <class T>
class Posterior {
 public:
    using Real = typename T::Real;
    static constexpr bool kTails = std::is_same_v<Real, float>;
    using Finding = std::conditional_t<kTails, Found, Leader<Real>>;

    __device__ __forceinline__ Posterior(const T& team, const ComponentTable& table,
                                         const PosteriorMemory<Real>& memory)
        : team_(team), t_(table), m_(memory) {
        const int K = static_cast<int>(table.mean.N), segment = static_cast<int>(segment_of(K, T::kWarps));
        first_ = T::warp() * segment;
        own_ = max(0, min(K - first_, segment));
        float peak = -INFINITY;
        for (int k = T::thread(); k < K; k += T::kThreads) peak = max(peak, table.neg_log_sigma[k]);
        peak_ = team.most(peak);
    }

    /// Before scalar 0.
    __device__ __forceinline__ void start(const float* logits) {
        logits_ = logits;
        passed_ = 0;
        broken_ = listed_ = false;
        rest_ = -INFINITY;
        count_ = own_;
        see_all([&](int k) { return logits[k]; }, false);
    }

    /// Past scalar passed(), whose value is z; its sums.
    __device__ __forceinline__ Finding pass(Real z) {
        const int i = passed_++;
        const Real base = m_.most[i], r = (z - t_.mean.at(i, leader_)) * t_.inv_sigma[leader_];
        const Real least = t_.neg_log_sigma[leader_] - Real(0.5) * r * r - kFollowed;
        rest_ += peak_ - base;
        const Finding found = team_.join(sweep(i, z, base, least));
        rest_ = max(rest_, found.rest);
        if (T::thread() == 0) m_.z[i] = z;
        settle(found);
        if (!broken_ && rest_ >= found.most - kSlack) catch_up();
        return found;
    }

    /// All components are followed again, their weights by the same steps as sweep() takes.
    __device__ __forceinline__ void catch_up() {
        count_ = own_;
        listed_ = true;
        rest_ = -INFINITY;
        see_all(
            [&](int k) {
                const Real inv = t_.inv_sigma[k], peak = t_.neg_log_sigma[k];
                Real y = logits_[k];
                for (int j = 0; j < passed_; ++j)
                    y = weight_after<Real>(y - m_.most[j], (m_.z[j] - t_.mean.at(j, k)) * inv, peak);
                return y;
            },
            true);
    }

    /// Follows whatever can be seen in a tail of this logarithm; the least log weight of those, relative to the largest.
    __device__ __forceinline__ Real look_far(Real log_tail) {
        const Real least = log_tail - kSeenInTail<Real>;
        if (rest_ - m_.most[passed_] >= least) {
            __syncthreads();  // catch_up writes what has just been read
            catch_up();
        }
        return least;
    }

    __device__ __forceinline__ bool broken() const { return broken_; }
    __device__ __forceinline__ Real most(int i) const { return m_.most[i]; }

    /// f(place, k, x) for the thread's components that are followed; x: log weight relative to the largest.
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        const Real base = m_.most[passed_];
#pragma unroll 1
        for (int at = T::lane(); at < count_; at += 32) {
            const int place = first_ + at, k = listed_ ? m_.index[place] : place;
            f(place, k, (listed_ ? m_.log_weight[place] : static_cast<Real>(logits_[k])) - base);
        }
    }

    /// The sum of all weights, relative to the largest.
    __device__ __forceinline__ Real weight() const {
        Real sum = 0;
        each([&](int, int, Real x) { sum += exp(x); });
        return team_.sum(sum);
    }
    /// log p of all scalars so far, `first` being the weight() before them.
    __device__ __forceinline__ double log_density(Real last, Real first) const {
        double sum = static_cast<double>(log(last / first));
        for (int i = 1; i <= passed_; ++i)
            sum += static_cast<double>(static_cast<Real>(m_.most[i])) - 0.91893853320467274178;
        return sum;
    }

    __device__ __forceinline__ const ComponentTable& table() const {
        return t_;
    }
    __device__ __forceinline__ const T& team() const {
        return team_;
    }
    __device__ __forceinline__ int passed() const {
        return passed_;
    }
    __device__ __forceinline__ Real peak() const {
        return peak_;
    }

 private:
    __device__ __forceinline__ void settle(const Finding& found) {
        leader_ = found.who;
        broken_ = broken_ || found.lost > 0 || !(fabs(found.most) <= FLT_MAX);
        if (T::thread() == 0) m_.most[passed_] = found.most;
        __syncthreads();
    }

    /// Takes all components, weight(k) being theirs before scalar passed().
    template <class F>
    __device__ __forceinline__ void see_all(F weight, bool list) {
        Finding mine;
        for (int at = T::lane(); at < own_; at += 32) {
            const int k = first_ + at;
            const Real y = weight(k);
            if (!(y == y)) mine.lost = 1;
            if (y > mine.most) mine.most = y, mine.who = k;
            if (!list) continue;
            m_.log_weight[k] = y;
            m_.index[k] = k;
        }
        settle(team_.join(mine));
    }

    /// A component on its way to scalar i. (What a sweep needs next is asked for before it waits for its warp.)
    struct Item {
        int k;
        Real log_weight;
        float mean, inverse, peak;
    };
    __device__ __forceinline__ Item item(int i, int at) const {
        if (at >= count_) return {0, 0, 0, 0, 0};
        const int place = first_ + at, k = listed_ ? m_.index[place] : place;
        const Real log_weight = listed_ ? m_.log_weight[place] : static_cast<Real>(logits_[k]);
        return {k, log_weight, t_.mean.at(i, k), t_.inv_sigma[k], t_.neg_log_sigma[k]};
    }

    /// Weights after scalar i; those under `least` are let go. A warp's list moves towards its start, never past what is still to be
    /// read.
    __device__ __forceinline__ Finding sweep(int i, Real z, Real base, Real least) {
        Finding mine;
        int n = 0;
        Item next = item(i, T::lane());
        for (int at = 0; at < count_; at += 32) {
            const bool valid = at + T::lane() < count_;
            const Item c = next;
            next = item(i, at + 32 + T::lane());
            Real y = -INFINITY;
            if (valid) {
                const Real x = c.log_weight - base, r = (z - c.mean) * c.inverse;
                if constexpr (kTails) {
                    if (i == 0 || x >= -kPrunedBelow) {
                        const float weight = expf(x);
                        const Shares s = shares_of(x, weight, r);
                        mine.all += weight;
                        mine.weight += s.weight;
                        mine.below += s.below;
                        mine.above += s.above;
                    }
                }
                y = weight_after<Real>(x, r, c.peak);
                if (!(y == y)) mine.lost = 1;
                if (y > mine.most || (y == mine.most && c.k < mine.who)) mine.most = y, mine.who = c.k;
            }
            const bool kept = valid && !(y < least);
            if (valid && !kept) mine.rest = max(mine.rest, y);
            const unsigned votes = __ballot_sync(kAllLanes, kept);
            __syncwarp();
            if (kept) {
                const int to = first_ + n + __popc(votes & ((1u << T::lane()) - 1));
                m_.log_weight[to] = y;
                m_.index[to] = c.k;
            }
            n += __popc(votes);
        }
        count_ = n;
        listed_ = true;
        return mine;
    }

    const T& team_;
    const ComponentTable& t_;
    PosteriorMemory<Real> m_;
    const float* logits_ = nullptr;
    Real peak_, rest_ = 0;  // rest: none of those let go is above this
    int first_, own_;       // this warp's components
    int count_ = 0, passed_ = 0;
    int32_t leader_ = 0;
    bool broken_ = false, listed_ = false;
};

}  // namespace noema::cuda
