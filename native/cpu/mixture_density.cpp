#include "cpu/mixture_density.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mixture_density.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include "cpu/normal_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

constexpr int kRows = 4;

/// The first of n values that equals x.
int64_t first_equal(const float* values, int64_t n, float x) {
    const DF d;
    for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
        const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, values + i), hn::Set(d, x)));
        if (lane >= 0) return i + lane;
    }
    return 0;
}

/// Adds exp of the n values (a multiple of two vectors) of components k... to a row's sum; `most` is the largest of them.
void absorb(ExpSum& s, const float* values, int64_t n, int64_t k, float most) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    if (most > s.max) {
        if (s.sum != 0) s.sum *= std::exp(static_cast<double>(s.max) - most);
        s.max = most;
        s.best = static_cast<int32_t>(k + first_equal(values, n, most));
    }
    const VF max = hn::Set(d, s.max == -std::numeric_limits<float>::infinity() ? 0.0f : s.max);
    VF sum[2] = {hn::Zero(d), hn::Zero(d)};
    for (int64_t i = 0; i < n; i += 2 * L)
        for (int v = 0; v < 2; ++v) {
            const VF x = hn::Sub(hn::LoadU(d, values + i + v * L), max);
            if (any_counts(x)) sum[v] = hn::Add(sum[v], exp_falling(x));
        }
    s.sum += static_cast<double>(sum_of(hn::Add(sum[0], sum[1])));
}

/// Row r's logits [k, k + lanes), -inf beyond the last.
HWY_INLINE VF load_logits(const float* logits, int64_t k, int64_t K) {
    const DF d;
    if (k + static_cast<int64_t>(hn::Lanes(d)) <= K) return hn::LoadU(d, logits + k);
    const VF none = hn::Set(d, -std::numeric_limits<float>::infinity());
    if (k >= K) return none;
    const auto inside = hn::FirstN(d, static_cast<size_t>(K - k));
    return hn::IfThenElse(inside, hn::MaskedLoad(inside, d, logits + k), none);
}

void absorb_logits(const MixtureDensity& p, int64_t r, int64_t k, int64_t n, ExpSum& s) {
    const DF d;
    HWY_ALIGN float values[kChunk];
    VF most = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
        const VF x = load_logits(p.logits.at<float>(r), k + i, p.table.K);
        most = hn::Max(most, x);
        hn::StoreU(x, d, values + i);
    }
    absorb(s, values, n, k, max_of(most));
}

/// One chunk [k, k + size) of components for rows r to r + n.
template <int n>
void chunk_rows(const MixtureDensity& p, int64_t r, int64_t k, int64_t size, ExpSum* sums) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    HWY_ALIGN float values[n][kChunk];
    const float *z[n], *logits[n];
    VF most[n], half[n][2];
    for (int row = 0; row < n; ++row) {
        z[row] = p.z.at<float>(r + row);
        logits[row] = p.logits ? p.logits.at<float>(r + row) : nullptr;
        most[row] = hn::Set(d, -std::numeric_limits<float>::infinity());
    }
    for (int64_t i = 0; i < size; i += 2 * L) {
        half_distances<n>(p.table, z, k + i, half);
        for (int v = 0; v < 2; ++v) {
            const int64_t at = i + v * L;
            const VF peak = log_peak(p.table, k + at);
            for (int row = 0; row < n; ++row) {
                VF x = hn::Sub(peak, half[row][v]);
                if (logits[row]) x = hn::Add(x, load_logits(logits[row], k + at, p.table.K));
                most[row] = hn::Max(x, most[row]);  // the second operand where x is NaN
                hn::StoreU(x, d, values[row] + at);
            }
        }
    }
    for (int row = 0; row < n; ++row) absorb(sums[row], values[row], size, k, max_of(most[row]));
}

void density_block(const MixtureDensity& p, int64_t span, int64_t first, int64_t last) {
    const int64_t R = p.z.shape[0], end = std::min(p.table.padded(), (span + 1) * kDensitySpan);
    ExpSum *joint = p.joint + span * R, *weights = p.weights ? p.weights + span * R : nullptr;
    for (int64_t r = first; r < last; ++r) {
        joint[r] = {-std::numeric_limits<float>::infinity(), 0, 0.0};
        if (weights) weights[r] = joint[r];
    }
    for (int64_t k = span * kDensitySpan; k < end; k += kChunk) {
        const int64_t size = std::min(kChunk, end - k);
        int64_t r = first;
        for (; r + kRows <= last; r += kRows) chunk_rows<kRows>(p, r, k, size, joint + r);
        for (; r < last; ++r) chunk_rows<1>(p, r, k, size, joint + r);
        for (r = first; weights && r < last; ++r) absorb_logits(p, r, k, size, weights[r]);
    }
}

/// max + log(sum), -inf for a sum of 0.
void log_block(const float* max, const float* sum, int64_t n, float* to) {
    for_each_vector(n, [&](auto load, auto store, int64_t) HWY_ATTR {
        const DF d;
        const VF s = load(sum), nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
        const VF y = hn::Add(load(max), log_positive(s));
        store(hn::IfThenElse(hn::Gt(s, hn::Zero(d)), y, hn::IfThenElse(hn::Eq(s, s), nothing, s)), to);
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(density_block);
HWY_EXPORT(log_block);

namespace {

/// 2^17 distances' terms per task are some 25 microseconds.
int64_t block_rows(const ComponentTable& t) {
    const int64_t terms = std::min(t.K, kDensitySpan) * (t.d + 2);
    return std::clamp<int64_t>((int64_t{1} << 17) / terms, 32, 512) / 4 * 4;
}

}  // namespace

void ExpSum::add(const ExpSum& other) {
    if (other.max > max) {
        sum = sum * std::exp(static_cast<double>(max) - other.max) + other.sum;
        max = other.max;
        best = other.best;
    } else if (max > -std::numeric_limits<float>::infinity()) {
        sum += other.sum * std::exp(static_cast<double>(other.max) - max);
    } else {
        sum += other.sum;  // nothing but zeros and NaN
    }
}

MixtureDensity mixture_density(const View& z, const View& logits, const ComponentTable& table, const Stream& stream,
                               Workspace& workspace) {
    const int64_t R = z.shape[0], spans = MixtureDensity::spans(table.K), rows = block_rows(table),
                  blocks = ceil_div(R, rows);
    MixtureDensity p{z, logits, table, workspace.take<ExpSum>(spans * R), nullptr};
    if (logits) p.weights = workspace.take<ExpSum>(spans * R);
    parallel_for(stream, blocks * spans, [&](int64_t i, int) {
        const int64_t first = i % blocks * rows;
        HWY_DYNAMIC_DISPATCH(density_block)(p, i / blocks, first, std::min(R, first + rows));
    });
    return p;
}

ExpSum MixtureDensity::total(const ExpSum* sums, int64_t r) const {
    const int64_t R = z.shape[0];
    ExpSum all = sums[r];
    for (int64_t span = 1; span < spans(table.K); ++span) all.add(sums[span * R + r]);
    return all;
}

void MixtureDensity::logs(const ExpSum* sums, int64_t first, int64_t n, float* to) const {
    float max[kLogs], sum[kLogs];
    for (int64_t i = 0; i < n; ++i) {
        const ExpSum all = total(sums, first + i);
        max[i] = all.max;
        sum[i] = static_cast<float>(all.sum);
    }
    HWY_DYNAMIC_DISPATCH(log_block)(max, sum, n, to);
}

}  // namespace noema::cpu
#endif
