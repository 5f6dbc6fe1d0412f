#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_f32.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/attention_kernels.h"
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
HWY_INLINE void product_tile(const BlockProduct& p, const float* left, const float* right, float* c) {
    const DF d;
    VF sum[kRows][kVectors];
    HWY_UNROLL(8)
    for (int i = 0; i < kRows; ++i) HWY_UNROLL(8)
    for (int j = 0; j < kVectors; ++j)
        sum[i][j] = p.accumulate ? hn::LoadU(d, c + i * p.c_row + j * kLanes) : hn::Zero(d);
    for (int64_t step = 0; step < p.steps; ++step) {
        VF r[kVectors];
        HWY_UNROLL(8)
        for (int j = 0; j < kVectors; ++j) r[j] = hn::LoadU(d, right + j * kLanes);
        HWY_UNROLL(8)
        for (int i = 0; i < kRows; ++i) {
            const VF l = hn::Set(d, left[i * p.left_row]);
            HWY_UNROLL(8)
            for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(l, r[j], sum[i][j]);
        }
        left += p.left_step;
        right += p.right_step;
    }
    HWY_UNROLL(8)
    for (int i = 0; i < kRows; ++i) HWY_UNROLL(8)
    for (int j = 0; j < kVectors; ++j) hn::StoreU(sum[i][j], d, c + i * p.c_row + j * kLanes);
}

template <int kRows, int kVectors>
HWY_NOINLINE void product_tile_at(const BlockProduct& p, int64_t row, int64_t column) {
    product_tile<kRows, kVectors>(p, static_cast<const float*>(p.left) + row * p.left_row,
                                  static_cast<const float*>(p.right) + column, p.c + row * p.c_row + column);
}

// The last rows get a tile of their own height: a row's arithmetic is the same in any tile.
template <int kVectors>
void product_panel(const BlockProduct& p, int64_t column) {
    int64_t row = 0;
    for (; row + kTileRows <= p.rows; row += kTileRows) product_tile_at<kTileRows, kVectors>(p, row, column);
    switch (p.rows - row) {
        case 1: return product_tile_at<1, kVectors>(p, row, column);
        case 2: return product_tile_at<2, kVectors>(p, row, column);
        case 3: return product_tile_at<3, kVectors>(p, row, column);
        case 4: return product_tile_at<4, kVectors>(p, row, column);
        case 5: return product_tile_at<5, kVectors>(p, row, column);
    }
}

void product(const BlockProduct& p) {
    constexpr int64_t kWidth = kTileVectors * kLanes;
    int64_t column = 0;
    for (; column + kWidth <= p.columns; column += kWidth) product_panel<kTileVectors>(p, column);
    switch ((p.columns - column) / kLanes) {
        case 1: return product_panel<1>(p, column);
        case 2: return product_panel<2>(p, column);
        case 3: return product_panel<3>(p, column);
    }
}

template <bool kRounding>
void pack_rows(const HeadRows& from, int64_t count, void* to) {
    const DF d;
    const int64_t padded = (from.D + kPad - 1) / kPad * kPad;
    for (int64_t r = 0; r < count; ++r) {
        float* packed = static_cast<float*>(to) + r * padded;
        const bool present = r >= from.begin && r < from.end;
        const float* row = present ? from.data + r * from.stride : nullptr;
        for (int64_t c = 0; c < padded; c += kLanes) {
            VF v = hn::Zero(d);
            if (present && c < from.D)
                v = load_n(d, row + c, static_cast<size_t>(from.D - c < kLanes ? from.D - c : kLanes));
            hn::StoreU(operand<kRounding>(v), d, packed + c);
        }
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

/// 2^x for x <= 0, 0 below -126.5; NaN stays NaN. The polynomial is the minimax one of degree 6 on [-1/2, 1/2].
HWY_INLINE VF exp2_nonpositive(VF x) {
    const DF d;
    const VF clamped = hn::Max(hn::Set(d, -127.0f), x);
    const VF n = hn::Round(clamped);
    const VF f = hn::Sub(clamped, n);
    VF y = hn::Set(d, 1.535336188319500e-4f);
    y = hn::MulAdd(y, f, hn::Set(d, 1.339887440266574e-3f));
    y = hn::MulAdd(y, f, hn::Set(d, 9.618437357674640e-3f));
    y = hn::MulAdd(y, f, hn::Set(d, 5.550332471162809e-2f));
    y = hn::MulAdd(y, f, hn::Set(d, 2.402264791363012e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, 6.931472028550421e-1f));
    y = hn::MulAdd(y, f, hn::Set(d, 1.0f));
    return hn::Mul(y, power_of_two(n));
}

constexpr float kLog2E = 1.44269504088896341f;
// Stands for "no score yet" and, unlike -inf, can be subtracted from -inf.
constexpr float kLowest = -3.402823466e38f;

/// Columns of one row; hidden ones count as -inf.
template <bool kPartial>
struct Scores {
    const float* row;
    int32_t low, high;

    HWY_INLINE VF at(int64_t column) const {
        const DF d;
        const VF s = hn::LoadU(d, row + column);
        if constexpr (!kPartial) return s;
        const hn::RebindToSigned<DF> di;
        const auto index = hn::Iota(di, static_cast<int32_t>(column));
        const auto seen = hn::And(hn::Gt(index, hn::Set(di, low - 1)), hn::Lt(index, hn::Set(di, high)));
        return hn::IfThenElse(hn::RebindMask(d, seen), s, hn::Set(d, -HUGE_VALF));
    }
};

HWY_INLINE void multiply_row(float* row, float factor, int64_t n) {
    const DF d;
    for (int64_t c = 0; c < n; c += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, row + c), hn::Set(d, factor)), d, row + c);
}

// exp(scale (s - max)) is taken as 2^((s - max) scale log2 e): the difference first, so that it is exact near the
// maximum however large the scores are.
template <bool kRounding, bool kPartial>
void softmax_row(const SoftmaxBlock& p, int64_t r) {
    const DF d;
    const VisibleBlock& visible = p.visible;
    const Scores<kPartial> scores{p.scores + r * kKeys, visible.low[r], visible.high[r]};
    float* weights = static_cast<float*>(p.weights) + r * kKeys;
    VF most = hn::Set(d, p.max[r]);
    for (int64_t c = visible.first; c < visible.last; c += kLanes) most = hn::Max(scores.at(c), most);
    const float max = max_of(most);
    const VF factor = hn::Set(d, p.scale * kLog2E), offset = hn::Set(d, max);
    VF sum = hn::Zero(d);
    for (int64_t c = visible.first; c < visible.last; c += kLanes) {
        const VF weight = exp2_nonpositive(hn::Mul(hn::Sub(scores.at(c), offset), factor));
        sum = hn::Add(sum, weight);
        hn::StoreU(operand<kRounding>(weight), d, weights + c);
    }
    if (max > p.max[r]) {
        const float shrink = hn::GetLane(exp2_nonpositive(hn::Mul(hn::Sub(hn::Set(d, p.max[r]), offset), factor)));
        p.sum[r] *= shrink;
        multiply_row(p.out + r * p.D, shrink, p.D);
        p.max[r] = max;
    }
    p.sum[r] += sum_of(sum);
}

template <bool kRounding>
void softmax(const SoftmaxBlock& p) {
    for (int64_t r = 0; r < p.visible.rows; ++r)
        if (p.visible.partial)
            softmax_row<kRounding, true>(p, r);
        else
            softmax_row<kRounding, false>(p, r);
}

// A probability is at most 1: the minimum keeps it so when scores are so large that lse lost its last digits.
template <bool kRounding, bool kPartial>
void softmax_backward_row(const SoftmaxBackwardBlock& p, int64_t r) {
    const DF d;
    const VisibleBlock& visible = p.visible;
    const Scores<kPartial> scores{p.scores + r * kKeys, visible.low[r], visible.high[r]};
    const VF lse = hn::Set(d, p.lse[r]), delta = hn::Set(d, p.delta[r]), scale = hn::Set(d, p.scale);
    const bool blind = visible.low[r] >= visible.high[r];
    for (int64_t c = visible.first; c < visible.last; c += kLanes) {
        const int64_t at = r * kKeys + c;
        const VF exponent = hn::Min(hn::MulSub(scores.at(c), scale, lse), hn::Zero(d));
        const VF weight = blind ? hn::Zero(d) : exp2_nonpositive(hn::Mul(exponent, hn::Set(d, kLog2E)));
        const VF slope = hn::Sub(hn::LoadU(d, p.d_weights + at), delta);
        hn::StoreU(operand<kRounding>(weight), d, static_cast<float*>(p.weights_t) + at);
        hn::StoreU(operand<kRounding>(hn::Mul(hn::Mul(weight, scale), slope)), d, static_cast<float*>(p.d_scores) + at);
    }
}

template <bool kRounding>
void softmax_backward(const SoftmaxBackwardBlock& p) {
    for (int64_t r = 0; r < p.visible.rows; ++r)
        if (p.visible.partial)
            softmax_backward_row<kRounding, true>(p, r);
        else
            softmax_backward_row<kRounding, false>(p, r);
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
