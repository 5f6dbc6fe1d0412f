#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_f32.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/attention_kernels.h"
#include "cpu/fold-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));
static_assert(kPad % kLanes == 0);

// Register tile of a product: 6 rows x 4 vectors fill 24 of the 32 registers of AVX-512 (4 more hold the right operand,
// one the left), 6 x 2 fill 12 of AVX2's 16. Per step 24 multiply-adds take 12 cycles, their 10 loads 5.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

template <bool kRounding>
HWY_INLINE VF operand(VF v) {
    if constexpr (kRounding) return round_to_bf16(v);
    return v;
}

template <int kRows, int kVectors>
HWY_NOINLINE void product_tile(const OperandProduct& p, int64_t row, int64_t column) {
    const DF d;
    const int64_t left_row = p.left_row, left_step = p.left_step, right_step = p.right_step, c_row = p.c_row;
    const float* left = static_cast<const float*>(p.left) + row * left_row;
    const float* right = static_cast<const float*>(p.right) + column;
    float* c = p.c + row * c_row + column;
    VF sum[kRows][kVectors];
    HWY_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
        HWY_UNROLL(8)
        for (int j = 0; j < kVectors; ++j)
            sum[i][j] = p.accumulate ? hn::LoadU(d, c + i * c_row + j * kLanes) : hn::Zero(d);
    }
    for (int64_t step = p.steps; step > 0; --step) {
        VF r[kVectors];
        HWY_UNROLL(8)
        for (int j = 0; j < kVectors; ++j) r[j] = hn::LoadU(d, right + j * kLanes);
        HWY_UNROLL(8)
        for (int i = 0; i < kRows; ++i) {
            const VF l = hn::Set(d, left[i * left_row]);
            HWY_UNROLL(8)
            for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(l, r[j], sum[i][j]);
        }
        left += left_step;
        right += right_step;
    }
    HWY_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
        HWY_UNROLL(8)
        for (int j = 0; j < kVectors; ++j) hn::StoreU(sum[i][j], d, c + i * c_row + j * kLanes);
    }
}

// The last rows get a tile of their own height: a row's arithmetic is the same in any tile.
template <int kVectors>
void product_panel(const OperandProduct& p, int64_t column) {
    int64_t row = 0;
    for (; row + kTileRows <= p.rows; row += kTileRows) product_tile<kTileRows, kVectors>(p, row, column);
    switch (p.rows - row) {
        case 1: return product_tile<1, kVectors>(p, row, column);
        case 2: return product_tile<2, kVectors>(p, row, column);
        case 3: return product_tile<3, kVectors>(p, row, column);
        case 4: return product_tile<4, kVectors>(p, row, column);
        case 5: return product_tile<5, kVectors>(p, row, column);
    }
}

void product(const OperandProduct& p) {
    constexpr int64_t kWidth = kTileVectors * kLanes;
    int64_t column = 0;
    for (; column + kWidth <= p.columns; column += kWidth) product_panel<kTileVectors>(p, column);
    switch ((p.columns - column) / kLanes) {
        case 1: return product_panel<1>(p, column);
        case 2: return product_panel < kTileVectors == 4 ? 2 : 1 > (p, column);
        case 3: return product_panel < kTileVectors == 4 ? 3 : 1 > (p, column);
    }
}

template <bool kRounding>
void pack_rows(const HeadRows& from, int64_t count, void* to) {
    const DF d;
    const int64_t padded = (from.D + kPad - 1) / kPad * kPad, whole = from.D / kLanes * kLanes;
    for (int64_t r = 0; r < count; ++r) {
        float* packed = static_cast<float*>(to) + r * padded;
        int64_t c = 0;
        if (r >= from.begin && r < from.end) {
            const float* row = from.data + r * from.stride;
            for (; c < whole; c += kLanes) hn::StoreU(operand<kRounding>(hn::LoadU(d, row + c)), d, packed + c);
            if (c < from.D) {
                hn::StoreU(operand<kRounding>(load_n(d, row + c, static_cast<size_t>(from.D - c))), d, packed + c);
                c += kLanes;
            }
        }
        for (; c < padded; c += kLanes) hn::StoreU(hn::Zero(d), d, packed + c);
    }
}

#if HWY_TARGET != HWY_SCALAR
/// Lanes 4 b to 4 b + 3 from row 4 b.
template <class D>
HWY_INLINE hn::Vec<D> gather_quads(D d, const float* rows, int64_t stride) {
    if constexpr (hn::MaxLanes(D()) == 4) {
        return hn::LoadU(d, rows);
    } else {
        const hn::Half<D> half;
        constexpr int64_t kHalf = hn::MaxLanes(D()) / 2;
        return hn::Combine(d, gather_quads(half, rows + kHalf * stride, stride), gather_quads(half, rows, stride));
    }
}

/// Four values of each of kLanes rows, as four vectors over the rows: a 4 x 4 transposition in each 128-bit block.
template <bool kRounding>
HWY_INLINE void transpose_four(const float* rows, int64_t stride, float* to) {
    const DF d;
    const hn::Repartition<uint64_t, DF> dw;
    const VF a = gather_quads(d, rows, stride), b = gather_quads(d, rows + stride, stride);
    const VF c = gather_quads(d, rows + 2 * stride, stride), e = gather_quads(d, rows + 3 * stride, stride);
    const auto ab = hn::BitCast(dw, hn::InterleaveLower(d, a, b)),
               ab_high = hn::BitCast(dw, hn::InterleaveUpper(d, a, b));
    const auto ce = hn::BitCast(dw, hn::InterleaveLower(d, c, e)),
               ce_high = hn::BitCast(dw, hn::InterleaveUpper(d, c, e));
    hn::StoreU(operand<kRounding>(hn::BitCast(d, hn::InterleaveLower(dw, ab, ce))), d, to);
    hn::StoreU(operand<kRounding>(hn::BitCast(d, hn::InterleaveUpper(dw, ab, ce))), d, to + kKeys);
    hn::StoreU(operand<kRounding>(hn::BitCast(d, hn::InterleaveLower(dw, ab_high, ce_high))), d, to + 2 * kKeys);
    hn::StoreU(operand<kRounding>(hn::BitCast(d, hn::InterleaveUpper(dw, ab_high, ce_high))), d, to + 3 * kKeys);
}

#endif

/// Value c of kLanes rows from row k on, one by one: edges of the block and of D.
template <bool kRounding>
void transpose_one(const HeadRows& from, int64_t k, int64_t c, float* to) {
    const DF d;
    HWY_ALIGN float column[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
        const bool present = k + i >= from.begin && k + i < from.end;
        column[i] = present ? from.data[(k + i) * from.stride + c] : 0.0f;
    }
    hn::StoreU(operand<kRounding>(hn::Load(d, column)), d, to);
}

template <bool kRounding>
void pack_transposed(const HeadRows& from, void* to) {
    float* packed = static_cast<float*>(to);
    for (int64_t k = 0; k < kKeys; k += kLanes) {
        int64_t c = 0;
#if HWY_TARGET != HWY_SCALAR
        const bool whole = k >= from.begin && k + kLanes <= from.end;
        for (; whole && c + 4 <= from.D; c += 4)
            transpose_four<kRounding>(from.data + k * from.stride + c, from.stride, packed + c * kKeys + k);
#endif
        for (; c < from.D; ++c) transpose_one<kRounding>(from, k, c, packed + c * kKeys + k);
    }
}

HWY_INLINE void multiply_row(float* row, float factor, int64_t n) {
    const DF d;
    for (int64_t c = 0; c < n; c += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, row + c), hn::Set(d, factor)), d, row + c);
}

// exp(scale (s - max)) is taken as 2^((s - max) scale log2 e): the difference first, so that it is exact near the
// maximum however large the scores are. Maxima of all rows come before the weights of any, because each is a chain of
// dependent steps that only other rows can fill.

/// Takes four rows' maxima into those so far; shrink[i] is what row r + i's earlier sums are worth now.
HWY_INLINE void raise_maxima(const SoftmaxBlock& p, int64_t r, float* shrink) {
    const DF d;
    const float* scores = p.scores + r * kKeys;
    float most[4];
    VF v[4];
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) v[i] = hn::LoadU(d, scores + i * kKeys + p.visible.first);
    for (int64_t c = p.visible.first + kLanes; c < p.visible.last; c += kLanes) {
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) v[i] = hn::Max(hn::LoadU(d, scores + i * kKeys + c), v[i]);
    }
    fold_four(v, Most(), most);
    const hn::CappedTag<float, 4> dq;
    const Exp2<hn::CappedTag<float, 4>> exp2(p.scale * kLog2E);
    for (size_t i = 0; i < 4; i += hn::Lanes(dq)) {
        const auto before = hn::LoadU(dq, p.max + r + i);
        const auto now = hn::Max(hn::LoadU(dq, most + i), before);
        hn::StoreU(now, dq, p.max + r + i);
        hn::StoreU(exp2(hn::Sub(before, now)), dq, shrink + i);
    }
}

template <bool kRounding>
HWY_INLINE void weigh(const SoftmaxBlock& p, int64_t r, const float* shrink) {
    const DF d;
    const float* scores = p.scores + r * kKeys;
    float* weights = static_cast<float*>(p.weights) + r * kKeys;
    const Exp2<DF> exp2(p.scale * kLog2E);
    float total[4];
    VF v[4], max[4];
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
        v[i] = hn::Zero(d);
        max[i] = hn::Set(d, p.max[r + i]);
    }
    for (int64_t c = p.visible.first; c < p.visible.last; c += kLanes) {
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            const VF weight = exp2(hn::Sub(hn::LoadU(d, scores + i * kKeys + c), max[i]));
            v[i] = hn::Add(v[i], weight);
            hn::StoreU(operand<kRounding>(weight), d, weights + i * kKeys + c);
        }
    }
    fold_four(v, Plus(), total);
    for (int i = 0; i < 4; ++i) p.sum[r + i] = p.sum[r + i] * shrink[i] + total[i];
}

template <bool kRounding>
void softmax(const SoftmaxBlock& p) {
    float shrink[kQueries];
    for (int64_t r = 0; r < p.visible.rows; r += kGroup) raise_maxima(p, r, shrink + r);
    for (int64_t r = 0; r < p.visible.rows; r += kGroup) weigh<kRounding>(p, r, shrink + r);
    for (int64_t r = 0; r < p.visible.rows; ++r)
        if (shrink[r] != 1.0f) multiply_row(p.out + r * p.D, shrink[r], p.D);
}

// A probability is at most 1: the minimum keeps it so when scores are so large that lse lost its last digits.
template <bool kRounding>
void softmax_backward(const SoftmaxBackwardBlock& p) {
    const DF d;
    const VF scale = hn::Set(d, p.scale);
    const Exp2<DF> exp2(kLog2E);
    for (int64_t r = 0; r < p.visible.rows; ++r) {
        const VF lse = hn::Set(d, p.lse[r]), delta = hn::Set(d, p.delta[r]);
        for (int64_t c = p.visible.first; c < p.visible.last; c += kLanes) {
            const int64_t at = r * kKeys + c;
            const VF exponent = hn::Min(hn::Zero(d), hn::MulSub(hn::LoadU(d, p.scores + at), scale, lse));
            const VF weight = exp2(exponent);
            const VF slope = hn::Sub(hn::LoadU(d, p.d_weights + at), delta);
            const VF d_score = hn::Mul(hn::Mul(weight, scale), slope);
            hn::StoreU(operand<kRounding>(weight), d, static_cast<float*>(p.weights_t) + at);
            hn::StoreU(operand<kRounding>(d_score), d, static_cast<float*>(p.d_scores) + at);
        }
    }
}

void row_dots(const HeadRows& a, const HeadRows& b, float* sums) {
    for (int64_t r = a.begin; r < a.end; ++r) {
        const float* x = a.data + r * a.stride;
        const float* y = b.data + r * b.stride;
        VF sum = hn::Zero(DF());
        for_each_vector(a.D, [&](auto load, auto, int64_t) HWY_ATTR { sum = hn::MulAdd(load(x), load(y), sum); });
        sums[r] = sum_of(sum);
    }
}

void scale_row(const float* row, float factor, int64_t D, float* to) {
    const VF f = hn::Set(DF(), factor);
    for_each_vector(D, [&](auto load, auto store, int64_t) HWY_ATTR { store(hn::Mul(load(row), f), to); });
}

template <bool kRounding>
constexpr AttentionKernels kTable = {1,        pack_rows<kRounding>, pack_transposed<kRounding>,  pack_rows<kRounding>,
                                     product,  softmax<kRounding>,   softmax_backward<kRounding>, row_dots,
                                     scale_row};

const AttentionKernels* attention_table(bool rounding) {
    return rounding ? &kTable<true> : &kTable<false>;
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(attention_table);

const AttentionKernels& attention_kernels_f32(bool rounding) {
    return *HWY_DYNAMIC_DISPATCH(attention_table)(rounding);
}

}  // namespace noema::cpu
#endif
