// The weights of a token's components as its scalars become known: the cpu backend's posterior (posterior-inl.h there), by the threads of a
// block. Warps own neighbouring runs of components, and lists of those of them that are still followed, so that nobody waits for another's
// list. All threads hold the same of what concerns the whole token.
#pragma once

#include "common/component_table.h"
#include "common/reduce.h"
#include "mixture_cdf.h"
#include "noema/ops/mixture_rosenblatt.h"

namespace noema::cuda {

/// What a sweep over the components finds.
struct Found {
    float weight, below, above, all;  // sums relative to the largest weight; all: those that do not count in F, too
    float rest;                       // the largest of those let go
    float lost;                       // 1: some log weight is not a number
    float most;                       // the largest
    int32_t who;                      // whose it is, the lowest of equals
};
__device__ __forceinline__ Found joined(const Found& a, const Found& b) {
    const bool other = b.most > a.most || (b.most == a.most && b.who < a.who);
    return {a.weight + b.weight, a.below + b.below,   a.above + b.above,       a.all + b.all,
            max(a.rest, b.rest), max(a.lost, b.lost), other ? b.most : a.most, other ? b.who : a.who};
}

/// The threads of a block, and their sums.
template <int threads>
class Team {
 public:
    static constexpr int kThreads = threads, kWarps = threads / 32, kScratch = 8 * kWarps;

    __device__ __forceinline__ explicit Team(Shared<float> scratch) : scratch_(scratch) {}
    static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
    static __device__ __forceinline__ int lane() { return thread() % 32; }
    static __device__ __forceinline__ int warp() { return thread() / 32; }

    __device__ __forceinline__ float sum(float x) const { return block_reduce(x, Sum{}, scratch_); }
    __device__ __forceinline__ float most(float x) const { return block_reduce(x, Max{}, scratch_); }

    /// All warps' findings, for every thread: the first warp joins what the lanes of each have joined.
    __device__ __forceinline__ Found join(Found mine) const {
        mine = joined_lanes(mine, 32);
        if constexpr (kWarps > 1) {
            if (lane() == 0) put(warp(), mine);
            __syncthreads();
            if (warp() == 0) {
                mine = joined_lanes(get(lane() % kWarps), kWarps);
                __syncwarp();
                if (lane() == 0) put(0, mine);
            }
            __syncthreads();
            mine = get(0);
            __syncthreads();
        }
        return mine;
    }

 private:
    static __device__ __forceinline__ Found joined_lanes(Found mine, int width) {
        for (int bits = width / 2; bits > 0; bits /= 2) {
            const auto other = [&](auto x) { return __shfl_xor_sync(kAllLanes, x, bits); };
            const Found theirs{other(mine.weight), other(mine.below), other(mine.above), other(mine.all),
                               other(mine.rest),   other(mine.lost),  other(mine.most),  other(mine.who)};
            mine = joined(mine, theirs);
        }
        return mine;
    }
    __device__ __forceinline__ void put(int at, const Found& f) const {
        const float values[8] = {f.weight, f.below, f.above, f.all, f.rest, f.lost, f.most, __int_as_float(f.who)};
#pragma unroll
        for (int i = 0; i < 8; ++i) scratch_[i * kWarps + at] = values[i];
    }
    __device__ __forceinline__ Found get(int at) const {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = scratch_[i * kWarps + at];
        return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], __float_as_int(v[7])};
    }

    Shared<float> scratch_;
};

/// As on the cpu: what is followed, and when all are looked at again.
constexpr float kFollowed = 52.0f, kSlack = 36.0f;

/// Far out, components under e^-27 of the tail itself are not seen in it: 50257 of them are 1e-7 of it.
constexpr float kSeenInTail = 27.0f;

/// A component of the weight w (0: it does not count in F) at a distance: its parts of both tails, and w exp(-distance²/2).
struct Shares {
    float weight, below, above, bell;
};
__device__ __forceinline__ Shares shares_of(float x, float weight, float distance) {
    const float w = x >= -kPrunedBelow ? weight : 0.0f, a = bounded(distance, 14.0f), e = bell(a) * w;
    const float tail = tail_factor(a) * e, rest = w - tail;
    return {w, distance < 0 ? tail : rest, distance < 0 ? rest : tail, e};
}

/// log weight x, relative to the largest before, after a scalar at a distance.
__device__ __forceinline__ float weight_after(float x, float distance, float peak) {
    return x + fmaf(-0.5f * distance, distance, peak);
}

/// A token's lists in device memory, and its scalars in shared memory.
struct PosteriorMemory {
    float* log_weight;  // [kWarps segments]
    int32_t* index;
    Shared<float> most, z;  // [d + 1], [d]

    /// Components of a warp.
    template <class T>
    static constexpr int64_t segment(int64_t K) {
        return ceil_div(ceil_div(K, 32), T::kWarps) * 32;
    }
    template <class T>
    static constexpr int64_t length(int64_t K) {
        return T::kWarps * segment<T>(K);
    }
    static size_t shared_bytes(int64_t d) { return sizeof(float) * static_cast<size_t>(2 * d + 1); }
};

template <class T>
class Posterior {
 public:
    __device__ __forceinline__ Posterior(const T& team, const ComponentTable& table, const PosteriorMemory& memory)
        : team_(team), t_(table), m_(memory) {
        const int K = static_cast<int>(table.mean.N), segment = static_cast<int>(PosteriorMemory::segment<T>(K));
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
    __device__ __forceinline__ Found pass(float z) {
        const int i = passed_++;
        const float base = m_.most[i], r = (z - t_.mean.at(i, leader_)) * t_.inv_sigma[leader_];
        const float least = t_.neg_log_sigma[leader_] - 0.5f * r * r - kFollowed;
        rest_ += peak_ - base;
        const Found found = team_.join(sweep(i, z, base, least));
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
                const float inv = t_.inv_sigma[k], peak = t_.neg_log_sigma[k];
                float y = logits_[k];
                for (int j = 0; j < passed_; ++j)
                    y = weight_after(y - m_.most[j], (m_.z[j] - t_.mean.at(j, k)) * inv, peak);
                return y;
            },
            true);
    }

    /// Follows whatever can be seen in a tail of this logarithm; the least log weight of those, relative to the largest.
    __device__ __forceinline__ float look_far(float log_tail) {
        const float least = log_tail - kSeenInTail;
        if (rest_ - m_.most[passed_] >= least) {
            __syncthreads();  // catch_up writes what has just been read
            catch_up();
        }
        return least;
    }

    __device__ __forceinline__ bool broken() const { return broken_; }
    __device__ __forceinline__ float most(int i) const { return m_.most[i]; }

    /// f(place, k, x) for the thread's components that are followed; x: log weight relative to the largest.
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        const float base = m_.most[passed_];
        for (int at = T::lane(); at < count_; at += 32) {
            const int place = first_ + at, k = listed_ ? m_.index[place] : place;
            f(place, k, (listed_ ? m_.log_weight[place] : logits_[k]) - base);
        }
    }

    /// The sum of all weights, relative to the largest.
    __device__ __forceinline__ float weight() const {
        float sum = 0;
        each([&](int, int, float x) { sum += expf(x); });
        return team_.sum(sum);
    }
    /// log p of all scalars so far, `first` being the weight() before them.
    __device__ __forceinline__ double log_density(float last, float first) const {
        double sum = static_cast<double>(logf(last / first));
        for (int i = 1; i <= passed_; ++i)
            sum += static_cast<double>(static_cast<float>(m_.most[i])) - 0.91893853320467274178;
        return sum;
    }

    __device__ __forceinline__ const ComponentTable& table() const { return t_; }
    __device__ __forceinline__ const T& team() const { return team_; }
    __device__ __forceinline__ int passed() const { return passed_; }
    __device__ __forceinline__ float peak() const { return peak_; }

 private:
    __device__ __forceinline__ void settle(const Found& found) {
        leader_ = found.who;
        broken_ = broken_ || found.lost > 0 || !(fabsf(found.most) <= FLT_MAX);
        if (T::thread() == 0) m_.most[passed_] = found.most;
        __syncthreads();
    }

    /// Takes all components, weight(k) being theirs before scalar passed().
    template <class F>
    __device__ __forceinline__ void see_all(F weight, bool list) {
        Found mine{0, 0, 0, 0, -INFINITY, 0, -INFINITY, 0};
        for (int at = T::lane(); at < own_; at += 32) {
            const int k = first_ + at;
            const float y = weight(k);
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
        float log_weight, mean, inverse, peak;
    };
    __device__ __forceinline__ Item item(int i, int at) const {
        if (at >= count_) return {0, 0, 0, 0, 0};
        const int place = first_ + at, k = listed_ ? m_.index[place] : place;
        return {k, listed_ ? m_.log_weight[place] : logits_[k], t_.mean.at(i, k), t_.inv_sigma[k], t_.neg_log_sigma[k]};
    }

    /// Weights after scalar i; those under `least` are let go. A warp's list moves towards its start, never past what is still to be
    /// read.
    __device__ __forceinline__ Found sweep(int i, float z, float base, float least) {
        Found mine{0, 0, 0, 0, -INFINITY, 0, -INFINITY, 0};
        int n = 0;
        Item next = item(i, T::lane());
        for (int at = 0; at < count_; at += 32) {
            const bool valid = at + T::lane() < count_;
            const Item c = next;
            next = item(i, at + 32 + T::lane());
            float y = -INFINITY;
            if (valid) {
                const float x = c.log_weight - base, r = (z - c.mean) * c.inverse;
                if (i == 0 || x >= -kPrunedBelow) {
                    const float weight = expf(x);
                    const Shares s = shares_of(x, weight, r);
                    mine.all += weight;
                    mine.weight += s.weight;
                    mine.below += s.below;
                    mine.above += s.above;
                }
                y = weight_after(x, r, c.peak);
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
    PosteriorMemory m_;
    const float* logits_ = nullptr;
    float peak_, rest_ = 0;  // rest: none of those let go is above this
    int first_, own_;        // this warp's components
    int count_ = 0, passed_ = 0;
    int32_t leader_ = 0;
    bool broken_ = false, listed_ = false;
};

}  // namespace noema::cuda
