// What the vocabulary head does with a piece of a row of logits; one vector loop each.
#pragma once

#include <cstdint>

namespace noema::cpu {

/// The pieces in which a row is reduced: 8 KiB, so that the second look finds it in the first-level cache. Sums of
/// pieces are added in order, so a row's result does not depend on how many pieces were formed together.
constexpr int64_t kHeadChunk = 2048;

constexpr int kPeakGroups = 64;

/// The largest value, the largest of each group of lanes (as many groups as the vectors have lanes, times 4), and
/// whether a NaN was seen (the maxima then mean nothing).
struct Peak {
    float max;
    bool nan;
    int groups;
    float group_max[kPeakGroups];
};
void find_peak(const float* x, int64_t n, Peak& peak);

/// sum of exp(x - max) and of exp(x - max) (x - max); max is the piece's own, finite.
struct ExpSums {
    float sum;
    float weighted;
};
ExpSums exp_sums(const float* x, int64_t n, float max);
float exp_sum(const float* x, int64_t n, float max);

/// Indices of values above `threshold`, and of those equal to it if `inclusive`, rising; `found` has room for n + 16.
int64_t collect(const float* x, int64_t n, float threshold, bool inclusive, int32_t* found);

/// x = exp(x - max) * scale
void scaled_softmax(float* x, int64_t n, float max, float scale);

/// out = exp((x - max) * inverse_temperature); returns its sum.
float tempered(const float* x, int64_t n, float max, float inverse_temperature, float* out);

/// The sum of mass[i] where x[i] >= threshold.
float mass_above(const float* x, const float* mass, int64_t n, float threshold);

/// Values below the threshold become -infinity.
void drop_below(float* x, int64_t n, float threshold);

/// sum[i] += rows[0][i] + rows[1][i] + ..., one row after the other
void add_rows_to(float* sum, const float* rows, int64_t count, int64_t pitch, int64_t n);

/// Score (x - max) * inverse_temperature - log(-log u_lane), against the best so far; ties go to the lower id.
struct GumbelRow {
    uint64_t seed;
    uint32_t step;
    uint32_t position;
    float max;
    float inverse_temperature;
};
struct GumbelBest {
    float score;
    int32_t id;
    float logit;
};
void gumbel_best(const GumbelRow& row, const float* x, int64_t n, int32_t first_id, GumbelBest& best);

}  // namespace noema::cpu
