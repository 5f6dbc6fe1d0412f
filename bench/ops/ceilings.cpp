#include "ops/ceilings.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/ceilings.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <chrono>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

namespace {

// 12 chains: an FMA takes 4 cycles and two start per cycle; 16 registers hold them with their factor.
constexpr int kChains = 12;
constexpr int kRounds = 20000;

double fma_burst(float seed) {
    const DF d;
    VF sums[kChains];
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = hn::Set(d, seed + static_cast<float>(i));
    const VF factor = hn::Set(d, 0.999f + seed * 1e-9f);
    for (int round = 0; round < kRounds; ++round)
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(sums[i], factor, factor);
    VF total = sums[0];
#pragma GCC unroll 16
    for (int i = 1; i < kChains; ++i) total = hn::Add(total, sums[i]);
    volatile float sink = sum_of(total);
    (void)sink;
    return 2.0 * kChains * kRounds * static_cast<double>(hn::Lanes(d));
}

// Values from a buffer of the first-level cache, four independent evaluations at a time.
double exp_burst(float seed) {
    const DF d;
    constexpr int kValues = 1024;
    alignas(64) float x[kValues];
    for (int i = 0; i < kValues; ++i) x[i] = -seed - static_cast<float>(i) * 0.01f;
    const int L = static_cast<int>(hn::Lanes(d));
    VF total[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    constexpr int kPasses = 600;
    for (int pass = 0; pass < kPasses; ++pass)
        for (int i = 0; i < kValues; i += 4 * L)
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) total[j] = hn::Add(total[j], exp_nonpositive(hn::Load(d, x + i + j * L)));
    volatile float sink = sum_of(hn::Add(hn::Add(total[0], total[1]), hn::Add(total[2], total[3])));
    (void)sink;
    return 1.0 * kPasses * kValues;
}

// Eight chains of additions: more lines per cycle than any cache delivers.
constexpr int kReadChains = 8;

template <class At>
HWY_INLINE float sum_lines(int64_t rounds, const At& at) {
    const DF d;
    VF a[kReadChains];
#pragma GCC unroll 8
    for (int i = 0; i < kReadChains; ++i) a[i] = hn::Zero(d);
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 8
        for (int i = 0; i < kReadChains; ++i) a[i] = hn::Add(a[i], hn::Load(d, at(round, i)));
#pragma GCC unroll 8
    for (int i = 1; i < kReadChains; ++i) a[0] = hn::Add(a[0], a[i]);
    return sum_of(a[0]);
}

// A part from its first byte to its last.
float read_stream(const float* p, int64_t n) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF()));
    return sum_lines(n / (kReadChains * L),
                     [=](int64_t round, int i) HWY_ATTR { return p + (round * kReadChains + i) * L; });
}

// Its four quarters by turns, as a kernel with several panels reads.
float read_streams(const float* p, int64_t n) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF())), quarter = n / 4;
    return sum_lines(n / (kReadChains * L), [=](int64_t round, int i) HWY_ATTR {
        return p + i % 4 * quarter + (round * (kReadChains / 4) + i / 4) * L;
    });
}

// From its first byte to its last, and what comes later is asked for: memory is farther away than the hardware looks ahead.
float read_fetched(const float* p, int64_t n) {
    constexpr int64_t kAhead = 8192;  // 32 KB
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF()));
    return sum_lines(n / (kReadChains * L), [=](int64_t round, int i) HWY_ATTR {
        const float* from = p + (round * kReadChains + i) * L;
        __builtin_prefetch(from + kAhead, 0, 2);
        return from;
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

namespace {

HWY_EXPORT(fma_burst);
HWY_EXPORT(exp_burst);
HWY_EXPORT(read_stream);
HWY_EXPORT(read_streams);
HWY_EXPORT(read_fetched);

double one_fma_burst() {
    return HWY_DYNAMIC_DISPATCH(fma_burst)(1.0f);
}
double one_exp_burst() {
    return HWY_DYNAMIC_DISPATCH(exp_burst)(1.0f);
}

constexpr int64_t kLargestRead = int64_t{256} << 20;

// The buffer that reads go through, of 1.0 so that sums stay normal numbers.
const float* read_buffer() {
    static const float* buffer = [] {
        float* p = static_cast<float*>(find_backend("cpu")->allocate(kLargestRead + 4096));
        std::fill(p, p + kLargestRead / 4, 1.0f);
        return p;
    }();
    return buffer;
}

}  // namespace

/// Manners of reading: whichever is fastest, of so many bytes on this machine, is the ceiling.
enum class Reading { stream, streams, fetched };

float read_through(const float* p, int64_t n, Reading manner) {
    switch (manner) {
        case Reading::streams: return HWY_DYNAMIC_DISPATCH(read_streams)(p, n);
        case Reading::fetched: return HWY_DYNAMIC_DISPATCH(read_fetched)(p, n);
        case Reading::stream: break;
    }
    return HWY_DYNAMIC_DISPATCH(read_stream)(p, n);
}

}  // namespace noema::cpu

namespace noema::bench {

namespace {

constexpr double kSlice = 1e-3;

// Every thread repeats bursts of some 50 us for one slice, after one that may find the caches cold; the sum of the
// threads' rates over the whole slice, as a case is timed over slices. (The best single burst would be more than any work
// of a millisecond can have: threads that share a cache take turns at being fast.)
template <class Burst>
double rate_of(const Stream& stream, const Burst& burst) {
    double rates[256] = {};
    parallel_for(stream, std::min(stream.threads, 256), [&](int64_t i, int) {
        burst(i);
        const double start = seconds_now();
        double done = 0, now = start;
        for (; now - start < kSlice; now = seconds_now()) done += burst(i);
        rates[i] = done / (now - start);
    });
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

}  // namespace

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double flops_slice(const Stream& stream, Precision precision) {
    const cpu::Isa isa = cpu::current_isa();
    if (precision == Precision::bf16 && isa == cpu::Isa::amx)
        return rate_of(stream, [](int64_t) { return dot_amx_burst(); });
    if (precision == Precision::bf16 && isa == cpu::Isa::avx512_bf16)
        return rate_of(stream, [](int64_t) { return dot_bf16_burst(); });
    return rate_of(stream, [](int64_t) { return cpu::one_fma_burst(); });
}

double exps_slice(const Stream& stream) {
    return rate_of(stream, [](int64_t) { return cpu::one_exp_burst(); });
}

double read_slice(const Stream& stream, double bytes) {
    constexpr int64_t kPage = 4096, kBurst = int64_t{4} << 20;
    const int64_t all = std::clamp(static_cast<int64_t>(bytes), kPage * stream.threads, cpu::kLargestRead);
    const int64_t part = all / stream.threads / kPage * kPage, passes = std::max<int64_t>(1, kBurst / part);
    const float* buffer = cpu::read_buffer();
    const auto rate = [=](cpu::Reading manner) {
        return rate_of(stream, [=](int64_t i) {
            for (int64_t n = 0; n < passes; ++n) cpu::read_through(buffer + i * part / 4, part / 4, manner);
            return static_cast<double>(passes * part);
        });
    };
    return std::max({rate(cpu::Reading::stream), rate(cpu::Reading::streams), rate(cpu::Reading::fetched)});
}

}  // namespace noema::bench
#endif
