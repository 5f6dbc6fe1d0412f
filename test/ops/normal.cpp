// The normal distribution as the couplings compute it (normal-inl.h in f32, wide-inl.h in double) against long double, on every instruction
// set: what the headers claim of their errors holds.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/normal.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cpu/wide-inl.h"
#include "ops/normal_values.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

void evaluate_f32(const test::NormalValues& v) {
    const DF d;
    for (int64_t i = 0; i < v.n; i += static_cast<int64_t>(hn::Lanes(d))) {
        const VF x = hn::LoadU(d, v.x + i), a = hn::Abs(x);
        const Normal at = normal(x);
        hn::StoreU(at.below, d, v.below + i);
        hn::StoreU(at.above, d, v.above + i);
        hn::StoreU(at.density, d, v.density + i);
        const VF log_tail = hn::NegMulAdd(hn::Mul(a, hn::Set(d, 0.5f)), a, log_positive(tail_factor(a)));
        hn::StoreU(log_tail, d, v.log_tail + i);
        const VF lower = hn::LoadU(d, v.lower + i), upper = hn::LoadU(d, v.upper + i);
        hn::StoreU(quantile(lower, upper), d, v.quantile + i);
        hn::StoreU(quantile_of_log(log_positive(lower), log_positive(upper)), d, v.quantile_of_log + i);
    }
}

void evaluate_double(const test::NormalValues& v) {
    const DW d;
    for (int64_t i = 0; i < v.n; i += static_cast<int64_t>(hn::Lanes(d))) {
        const VW a = hn::Abs(hn::LoadU(d, v.wide_x + i)), e = bell(a), factor = tail_factor(a);
        hn::StoreU(hn::Mul(factor, e), d, v.wide_tail + i);
        hn::StoreU(e, d, v.wide_density + i);
        hn::StoreU(hn::NegMulAdd(hn::Mul(a, hn::Set(d, 0.5)), a, log_positive(factor)), d, v.wide_log_tail + i);
        const VW lower = hn::LoadU(d, v.wide_lower + i), upper = hn::LoadU(d, v.wide_upper + i);
        hn::StoreU(quantile(lower, upper), d, v.wide_quantile + i);
        hn::StoreU(quantile_of_log(log_positive(lower), log_positive(upper)), d, v.wide_quantile_of_log + i);
    }
}

void evaluate_normal(const test::NormalValues& v) {
    evaluate_f32(v);
    evaluate_double(v);
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <cmath>
#include <random>
#include <vector>

#include "doctest/doctest.h"
#include "native/harness.h"

namespace noema::cpu {
HWY_EXPORT(evaluate_normal);
}  // namespace noema::cpu

namespace noema::test {

namespace {

using Exact = long double;
constexpr Exact kRootHalf = 0.70710678118654752440084436210484903928L,
                kRootTau = 2.50662827463100050241576528481104525L;

Exact below(Exact x) {
    return 0.5L * std::erfc(-x * kRootHalf);
}
Exact density(Exact x) {
    return std::exp(-0.5L * x * x) / kRootTau;
}
/// u of lower + upper = 1: the smaller one decides. `near` is close to it.
Exact quantile(Exact lower, Exact upper, Exact near) {
    const bool flip = upper < lower;
    const Exact tail = flip ? upper : lower;
    Exact u = flip ? -near : near;
    for (int i = 0; i < 4; ++i) u -= (below(u) - tail) / density(u);
    return flip ? -u : u;
}

/// Errors in units of the last place of a result of `bits` bits.
double ulps(Exact got, Exact want, int bits) {
    if (want == 0) return got == 0 ? 0 : HUGE_VAL;
    return static_cast<double>(std::fabs(got - want) / std::ldexp(1.0L, std::ilogb(want) - bits + 1));
}

struct Values {
    std::vector<float> x, lower, upper, below, above, density, log_tail, quantile, quantile_of_log;
    std::vector<double> wide_x, wide_lower, wide_upper, wide_tail, wide_density, wide_log_tail, wide_quantile,
        wide_quantile_of_log;

    explicit Values(const std::vector<double>& at) {
        const size_t n = at.size();
        for (auto* v : {&x, &lower, &upper, &below, &above, &density, &log_tail, &quantile, &quantile_of_log})
            v->resize(n);
        for (auto* v : {&wide_x, &wide_lower, &wide_upper, &wide_tail, &wide_density, &wide_log_tail, &wide_quantile,
                        &wide_quantile_of_log})
            v->resize(n);
        for (size_t i = 0; i < n; ++i) {
            x[i] = static_cast<float>(at[i]), wide_x[i] = at[i];
            lower[i] = static_cast<float>(test::below(at[i])), upper[i] = static_cast<float>(test::below(-at[i]));
            wide_lower[i] = static_cast<double>(test::below(at[i])),
            wide_upper[i] = static_cast<double>(test::below(-at[i]));
        }
    }
    NormalValues views() {
        return {x.data(),
                lower.data(),
                upper.data(),
                below.data(),
                above.data(),
                density.data(),
                log_tail.data(),
                quantile.data(),
                quantile_of_log.data(),
                wide_x.data(),
                wide_lower.data(),
                wide_upper.data(),
                wide_tail.data(),
                wide_density.data(),
                wide_log_tail.data(),
                wide_quantile.data(),
                wide_quantile_of_log.data(),
                static_cast<int64_t>(x.size())};
    }
};

/// -12 .. 12 evenly, and every magnitude down to 1e-6.
std::vector<double> arguments() {
    std::mt19937 random(1);
    std::vector<double> at;
    for (int i = 0; i <= 24000; ++i) at.push_back(-12 + i / 1000.0);
    std::uniform_real_distribution<double> exponent(-6, 1.079), sign(-1, 1);
    for (int i = 0; i < 20000; ++i) at.push_back(std::copysign(std::pow(10, exponent(random)), sign(random)));
    while (at.size() % 16) at.push_back(0.5);
    return at;
}

}  // namespace

TEST_CASE("the normal distribution is right to 5 ulp from -12 to 12, its quantile too, and both in double") {
    const std::vector<double> at = arguments();
    EachIsa each;
    for (const std::string& isa : each.names) {
        EachIsa::use(isa);
        INFO(isa);
        Values v(at);
        HWY_DYNAMIC_DISPATCH(cpu::evaluate_normal)(v.views());
        // Without a fused multiply-add the square's low part is lost to the bell (normal-inl.h).
        const bool fused = isa != "portable";
        double tails = 0, densities = 0, logs = 0, roots = 0, log_roots = 0, wide = 0, wide_roots = 0;
        const auto worst = [](double& most, double error) { most = error > most || std::isnan(error) ? error : most; };
        for (size_t i = 0; i < at.size(); ++i) {
            const Exact x = v.x[i], w = at[i];
            const double lost = fused ? 0 : 0.6 * at[i] * at[i];
            worst(tails, ulps(v.below[i], below(x), 24) - lost);
            worst(tails, ulps(v.above[i], below(-x), 24) - lost);
            worst(densities, ulps(v.density[i], density(x), 24) - lost);
            worst(logs, ulps(v.log_tail[i], std::log(below(-std::fabs(x))), 24));
            const Exact u = quantile(v.lower[i], v.upper[i], w);
            // Near 0 what rounding leaves of a pair whose sum is not quite 1 is more than that.
            worst(roots,
                  std::min(ulps(v.quantile[i], u, 24), static_cast<double>(std::fabs(v.quantile[i] - u)) / 1e-8));
            worst(log_roots, std::min(ulps(v.quantile_of_log[i], u, 24),
                                      static_cast<double>(std::fabs(v.quantile_of_log[i] - u)) / 4e-8));
            const double wide_lost = fused ? 0 : 0.6 * at[i] * at[i];
            worst(wide, ulps(v.wide_tail[i], below(-std::fabs(w)), 53) - wide_lost);
            worst(wide, ulps(v.wide_density[i], std::exp(-0.5L * w * w), 53) - wide_lost);
            worst(wide, ulps(v.wide_log_tail[i], std::log(below(-std::fabs(w))), 53));
            const Exact root = quantile(v.wide_lower[i], v.wide_upper[i], w);
            const Exact scale = std::max(std::fabs(root), 1.0L);
            worst(wide_roots, static_cast<double>(std::fabs(v.wide_quantile[i] - root) / scale / 4e-16L));
            // Made for tails that double has no number for.
            if (std::fabs(at[i]) > 3)
                worst(wide_roots, static_cast<double>(std::fabs(v.wide_quantile_of_log[i] - root) / scale / 4e-16L));
        }
        MESSAGE(isa, ": tails ", tails, ", densities ", densities, ", logs ", logs, ", quantiles ", roots, " and ",
                log_roots, "; double: tails ", wide, ", quantiles ", wide_roots, " of 4e-16");
        CHECK(tails <= 5);
        CHECK(densities <= 5);
        CHECK(logs <= 5);
        CHECK(roots <= 5);
        CHECK(log_roots <= 5);
        CHECK(wide <= 8);
        CHECK(wide_roots <= 2);
    }
}

}  // namespace noema::test
#endif
