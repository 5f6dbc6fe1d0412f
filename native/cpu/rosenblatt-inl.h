// A token's way through mixture_rosenblatt: the sums of its scalars, which forward maps at once and backward keeps. Include inside a file
// that foreach_target.h includes again and again.
#if defined(NOEMA_CPU_ROSENBLATT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_ROSENBLATT_INL_H_
#undef NOEMA_CPU_ROSENBLATT_INL_H_
#else
#define NOEMA_CPU_ROSENBLATT_INL_H_
#endif

#include "cpu/posterior-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// MixtureSums of many scalars, side by side. Nobody asks for their densities: they are 1.
struct ScalarSums {
    static constexpr int64_t kArrays = 7;
    float* array[kArrays];  // in the order of MixtureSums

    ScalarSums(float* memory, int64_t n) {
        for (int64_t j = 0; j < kArrays; ++j) array[j] = memory + j * n;
    }
    void set(int64_t i, const float (&sums)[kArrays]) {
        for (int64_t j = 0; j < kArrays; ++j) array[j][i] = sums[j];
    }
    MixtureSums load(int64_t i) const {
        const DF d;
        return {hn::LoadU(d, array[0] + i), hn::LoadU(d, array[1] + i), hn::LoadU(d, array[2] + i),
                hn::LoadU(d, array[3] + i), hn::LoadU(d, array[4] + i), hn::LoadU(d, array[5] + i),
                hn::LoadU(d, array[6] + i)};
    }
};

/// A smaller tail than this part of the weights means |u| > kPrunedWithin = 4.
constexpr float kFarTail = 3.1671e-5f;

/// The sums of a scalar, whose components are given, by logarithms.
HWY_NOINLINE inline void far_sums(const Components& of, double weight, float z, float (&sums)[ScalarSums::kArrays]) {
    Search s = {};
    s.x.of[0] = static_cast<double>(z);
    evaluate_far(of, s, 0);
    // An exponent is kept in f32; what its rounding cuts goes to its factor.
    const auto put = [&](int64_t at, double factor, double exponent) {
        sums[at + 3] = static_cast<float>(exponent);
        sums[at] = static_cast<float>(factor * std::exp(exponent - static_cast<double>(sums[at + 3])));
    };
    sums[0] = static_cast<float>(weight);
    sums[3] = 1;
    sums[6] = 0;
    put(1, s.below.of[0], s.below_exponent.of[0] + std::log(weight));
    put(2, s.above.of[0], s.above_exponent.of[0] + std::log(weight));
}

/// All of a token's scalars, the first at place `at` of the sums; log p; the weight of all components at first, relative to the largest.
/// What a number that is not finite leaves without one becomes NaN.
HWY_INLINE void token_sums(Posterior<float>& posterior, const float* logits, const float* z, int64_t n,
                           Components& scratch, ScalarSums& to, int64_t at, double& log_density, float& weight) {
    posterior.start(logits);
    for (int64_t i = 0; i < n; ++i) {
        float sums[ScalarSums::kArrays] = {NAN, NAN, NAN, 1, 0, 0, 0};
        if (!posterior.broken()) {
            PlainSums plain;
            posterior.pass(z[i], &plain);
            if (i == 0) weight = plain.all;
            sums[0] = plain.weight, sums[1] = plain.below, sums[2] = plain.above;
            const float tail = std::fmin(plain.below, plain.above) / plain.weight;
            if (!(tail >= kFarTail)) {
                posterior.start(logits);
                for (int64_t j = 0; j < i; ++j) posterior.pass(z[j]);
                far_sums(scratch, posterior.gather_far(scratch, std::log(tail)), z[i], sums);
                posterior.pass(z[i]);
            }
        }
        to.set(at + i, sums);
    }
    log_density = posterior.broken() ? NAN : posterior.log_density(weight);
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
