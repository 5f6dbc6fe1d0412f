// The counter-based random numbers of noema/rng.h and Gumbel noise, a vector at a time. Include inside
// a file that foreach_target.h includes again and again, after simd-inl.h.
#if defined(NOEMA_CPU_RANDOM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_RANDOM_INL_H_
#undef NOEMA_CPU_RANDOM_INL_H_
#else
#define NOEMA_CPU_RANDOM_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "cpu/simd-inl.h"
#include "noema/rng.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

/// -log(-log u), u in (0, 1).
HWY_INLINE VF gumbel_of(VF u) {
    return hn::Neg(log_positive(hn::Neg(log_positive(u))));
}

#if HWY_TARGET == HWY_SCALAR

/// Uniforms of consecutive lanes of one row.
class RowUniforms {
 public:
    RowUniforms(uint64_t seed, RngStream stream, uint32_t step, uint32_t row)
        : seed_(seed), stream_(stream), step_(step), row_(row) {}

    void next(uint32_t first, VF& low, VF& high) const {
        low = hn::Set(DF(), rng_uniform(seed_, stream_, step_, row_, first));
        high = hn::Set(DF(), rng_uniform(seed_, stream_, step_, row_, first + 1));
    }

 private:
    uint64_t seed_;
    RngStream stream_;
    uint32_t step_, row_;
};

#else

/// Uniforms of consecutive lanes of one row, bit-equal to rng_uniform.
///
/// One block per 64-bit lane: the multiply reads only the low halves, and what the exclusive ors leave in the high
/// halves never comes back, so no masks are needed: per round and vector 2 multiplies, 2 shifts, 4 exclusive ors. The
/// ten rounds' keys are spread over vectors once per row.
class RowUniforms {
 public:
    using D64 = hn::Repartition<uint64_t, DF>;
    using D32 = hn::Repartition<uint32_t, DF>;
    using V64 = hn::Vec<D64>;

    HWY_INLINE RowUniforms(uint64_t seed, RngStream stream, uint32_t step, uint32_t row) {
        const D64 d;
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
            keys_[2 * round] = hn::Set(d, k0);
            keys_[2 * round + 1] = hn::Set(d, k1);
        }
        stream_ = hn::Set(d, static_cast<uint32_t>(stream));
        step_ = hn::Set(d, step);
        row_ = hn::Set(d, row);
        // Interleaving takes even 64-bit lanes to the low result and odd ones to the high result, so even lanes count
        // the first half of the blocks.
        const V64 lane = hn::Iota(d, 0), one = hn::Set(d, 1), half = hn::Set(d, hn::Lanes(d) / 2);
        order_ = hn::Add(hn::ShiftRight<1>(lane), hn::IfThenElseZero(hn::Eq(hn::And(lane, one), one), half));
    }

    /// The lanes first .. first + 2 Lanes(DF) - 1, in order; `first` is a multiple of their number.
    HWY_INLINE void next(uint32_t first, VF& low, VF& high) const {
        const D64 d;
        const D32 d32;
        V64 c0 = hn::Add(hn::Set(d, first / 4), order_), c1 = row_, c2 = step_, c3 = stream_;
        for (int round = 0; round < 10; ++round) {
            const V64 p0 = multiply(c0, 0xD2511F53u), p1 = multiply(c2, 0xCD9E8D57u);
            c0 = hn::Xor(hn::ShiftRight<32>(p1), hn::Xor(c1, keys_[2 * round]));
            c2 = hn::Xor(hn::ShiftRight<32>(p0), hn::Xor(c3, keys_[2 * round + 1]));
            c1 = p1;
            c3 = p0;
        }
        const V64 mask = hn::Set(d, 0xFFFFFFFFu);
        const V64 x01 = hn::Or(hn::And(c0, mask), hn::ShiftLeft<32>(c1));
        const V64 x23 = hn::Or(hn::And(c2, mask), hn::ShiftLeft<32>(c3));
        low = uniform(hn::BitCast(d32, hn::InterleaveLower(d, x01, x23)));
        high = uniform(hn::BitCast(d32, hn::InterleaveUpper(d, x01, x23)));
    }

 private:
    static HWY_INLINE V64 multiply(V64 low_halves, uint32_t by) {
        const D32 d32;
        return hn::MulEven(hn::BitCast(d32, low_halves), hn::Set(d32, by));
    }
    static HWY_INLINE VF uniform(hn::Vec<D32> bits) {
        const DF d;
        const hn::RebindToSigned<DF> di;
        const VF cell = hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<9>(bits)));
        return hn::Mul(hn::Add(cell, hn::Set(d, 0.5f)), hn::Set(d, 1.0f / 8388608.0f));
    }

    V64 keys_[20];
    V64 stream_, step_, row_, order_;
};

#endif

struct NormalPair {
    VF cosine, sine;
};

/// Box-Muller: sqrt(-2 log u) times the cosine and the sine of 2 pi v, u and v in (0, 1). The angle in quarter turns is a whole
/// number, which swaps and negates, and a rest of at most half a one, exactly (Cephes' coefficients).
HWY_INLINE NormalPair normal_pair(VF u, VF v) {
    const DF d;
    const hn::RebindToSigned<DF> di;
    const VF radius = hn::Sqrt(hn::Mul(log_positive(u), hn::Set(d, -2.0f)));
    const VF turns = hn::Mul(v, hn::Set(d, 4.0f)), whole = hn::Round(turns);
    const VF angle = hn::Mul(hn::Sub(turns, whole), hn::Set(d, 1.57079632679f)), square = hn::Mul(angle, angle);
    VF s = hn::MulAdd(hn::Set(d, -1.9515295891e-4f), square, hn::Set(d, 8.3321608736e-3f));
    s = hn::MulAdd(s, square, hn::Set(d, -1.6666654611e-1f));
    s = hn::MulAdd(hn::Mul(s, square), angle, angle);
    VF c = hn::MulAdd(hn::Set(d, 2.443315711809948e-5f), square, hn::Set(d, -1.388731625493765e-3f));
    c = hn::MulAdd(c, square, hn::Set(d, 4.166664568298827e-2f));
    c = hn::MulAdd(c, square, hn::Set(d, -0.5f));
    c = hn::MulAdd(c, square, hn::Set(d, 1.0f));
    const auto quarter = hn::ConvertTo(di, whole), one = hn::Set(di, 1), two = hn::Set(di, 2);
    const auto odd = hn::Eq(hn::And(hn::BitCast(di, quarter), one), one);
    const auto swap = hn::RebindMask(d, odd);
    const auto c_sign = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(hn::Add(quarter, one), two)));
    const auto s_sign = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(quarter, two)));
    return {hn::Mul(radius, hn::Xor(hn::IfThenElse(swap, s, c), c_sign)),
            hn::Mul(radius, hn::Xor(hn::IfThenElse(swap, c, s), s_sign))};
}

/// Standard normals (noema/rng.h) of consecutive lanes of one row; `first` as RowUniforms has it.
HWY_INLINE void normals_of(const RowUniforms& uniforms, uint32_t first, VF& low, VF& high) {
    uniforms.next(first, low, high);
#if HWY_TARGET == HWY_SCALAR
    const NormalPair pair = normal_pair(low, high);
    low = pair.cosine;
    high = pair.sine;
#else
    const NormalPair pair = normal_pair(hn::OddEven(hn::DupEven(high), low), hn::OddEven(high, hn::DupOdd(low)));
    low = hn::OddEven(hn::DupEven(pair.sine), pair.cosine);
    high = hn::OddEven(pair.sine, hn::DupOdd(pair.cosine));
#endif
}

}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
