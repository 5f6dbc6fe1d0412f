// The block kernels over AVX512-BF16: a word is two bf16, vdpbf16ps multiplies and adds 16 pairs of words, twice the
// work of an f32 multiply-add. Only reached when the machine has it. Highway 1.0 has no such products, so these are
// intrinsics.
#include <immintrin.h>

#include "cpu/attention_kernels.h"

// GCC 12 takes the undefined lanes of its own unpack intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace noema::cpu {

namespace {

constexpr int64_t kLanes = 16;
// As in attention_f32.cpp: 24 of 32 registers hold sums.
constexpr int kTileRows = 6, kTileVectors = 4;

int64_t padded_to(int64_t D) {
    return (D + kPad - 1) / kPad * kPad;
}

inline __mmask16 first_lanes(int64_t n) {
    return n >= kLanes ? 0xFFFF : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}

inline __m512bh as_pairs(__m512i words) {
    return (__m512bh)words;
}

/// Words (a, b) lane by lane: a in the low half.
inline __m512i pair_words(__m512 a, __m512 b) {
    const __m512i halves = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                            21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(halves, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

inline void store_rounded(void* to, __m512 v) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(v));
}

template <int kRows, int kVectors>
[[gnu::noinline]] void product_tile(const BlockProduct& p, int64_t row, int64_t column) {
    const int64_t left_row = p.left_row, left_step = p.left_step, right_step = p.right_step, c_row = p.c_row;
    const int32_t* left = static_cast<const int32_t*>(p.left) + row * left_row;
    const int32_t* right = static_cast<const int32_t*>(p.right) + column;
    float* c = p.c + row * c_row + column;
    __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j)
            sum[i][j] = p.accumulate ? _mm512_loadu_ps(c + i * c_row + j * kLanes) : _mm512_setzero_ps();
    for (int64_t step = p.steps; step > 0; --step) {
        __m512bh r[kVectors];
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) r[j] = as_pairs(_mm512_loadu_si512(right + j * kLanes));
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const __m512bh l = as_pairs(_mm512_set1_epi32(left[i * left_row]));
#pragma GCC unroll 8
            for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], l, r[j]);
        }
        left += left_step;
        right += right_step;
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) _mm512_storeu_ps(c + i * c_row + j * kLanes, sum[i][j]);
}

template <int kVectors>
void product_panel(const BlockProduct& p, int64_t column) {
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

/// 16 values from column c of row r; zero where there is none.
inline __m512 row_values(const HeadRows& from, int64_t r, int64_t c) {
    if (r < from.begin || r >= from.end) return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(first_lanes(from.D - c), from.data + r * from.stride + c);
}

void pack_left(const HeadRows& from, int64_t count, void* to) {
    const int64_t padded = padded_to(from.D);
    uint16_t* packed = static_cast<uint16_t*>(to);
    for (int64_t r = 0; r < count; ++r)
        for (int64_t c = 0; c < padded; c += kLanes) store_rounded(packed + r * padded + c, row_values(from, r, c));
}

void pack_right(const HeadRows& from, int64_t count, void* to) {
    const int64_t padded = padded_to(from.D);
    uint32_t* packed = static_cast<uint32_t*>(to);
    for (int64_t r = 0; r < count; r += 2)
        for (int64_t c = 0; c < padded; c += kLanes)
            _mm512_storeu_si512(packed + r / 2 * padded + c,
                                pair_words(row_values(from, r, c), row_values(from, r + 1, c)));
}

/// Four words of each of rows 0, 4, 8 and 12.
inline __m512i gather_quads(const uint32_t* rows, int64_t stride) {
    const auto quad = [&](int64_t r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + r * stride)); };
    __m512i v = _mm512_castsi128_si512(quad(0));
    v = _mm512_inserti32x4(v, quad(4), 1);
    v = _mm512_inserti32x4(v, quad(8), 2);
    return _mm512_inserti32x4(v, quad(12), 3);
}

/// Words [0, 4) of 16 rows, as four vectors over the rows.
inline void transpose_four(const uint32_t* rows, int64_t stride, uint32_t* to) {
    const __m512i a = gather_quads(rows, stride), b = gather_quads(rows + stride, stride);
    const __m512i c = gather_quads(rows + 2 * stride, stride), d = gather_quads(rows + 3 * stride, stride);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const __m512i cd = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(ab, cd));
    _mm512_storeu_si512(to + kKeys, _mm512_unpackhi_epi64(ab, cd));
    _mm512_storeu_si512(to + 2 * kKeys, _mm512_unpacklo_epi64(ab_high, cd_high));
    _mm512_storeu_si512(to + 3 * kKeys, _mm512_unpackhi_epi64(ab_high, cd_high));
}

void pack_transposed(const HeadRows& from, void* to) {
    alignas(64) uint32_t words[kLanes * kWidest / 2];
    const int64_t row_words = padded_to(from.D) / 2;
    for (int64_t k = 0; k < kKeys; k += kLanes) {
        const HeadRows some{from.data + k * from.stride, from.stride, from.begin - k, from.end - k, from.D};
        pack_left(some, kLanes, words);
        for (int64_t c = 0; c < row_words; c += 4)
            transpose_four(words + c, row_words, static_cast<uint32_t*>(to) + c * kKeys + k);
    }
}

/// 2^x for x <= 0, 0 below the range of f32; NaN stays NaN. The minimax polynomial of degree 5 errs by 9e-8.
inline __m512 exp2_nonpositive(__m512 x) {
    const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
    const __m512 n = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(clamped, n);
    __m512 y = _mm512_set1_ps(1.3264727197e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6715126396e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5507337433e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022242085e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314697760e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, n);
}

constexpr float kLog2E = 1.44269504088896341f;

/// Columns of one row; hidden ones count as -inf.
template <bool kPartial>
struct Scores {
    const float* row;
    int64_t low, high;

    inline __m512 at(int64_t column) const {
        const __m512 s = _mm512_loadu_ps(row + column);
        if constexpr (!kPartial) return s;
        const __mmask16 seen = first_lanes(high - column) & ~first_lanes(low - column);
        return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_huge_valf()), seen, s);
    }
};

template <bool kPartial>
void softmax_row(const SoftmaxBlock& p, int64_t r) {
    const VisibleBlock& visible = p.visible;
    const Scores<kPartial> scores{p.scores + r * kKeys, visible.low[r], visible.high[r]};
    uint16_t* weights = static_cast<uint16_t*>(p.weights) + r * kKeys;
    __m512 most = _mm512_set1_ps(p.max[r]);
    for (int64_t c = visible.first; c < visible.last; c += kLanes) most = _mm512_max_ps(scores.at(c), most);
    const float max = _mm512_reduce_max_ps(most);
    const __m512 factor = _mm512_set1_ps(p.scale * kLog2E), offset = _mm512_set1_ps(max);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t c = visible.first; c < visible.last; c += kLanes) {
        const __m512 weight = exp2_nonpositive(_mm512_mul_ps(_mm512_sub_ps(scores.at(c), offset), factor));
        sum = _mm512_add_ps(sum, weight);
        store_rounded(weights + c, weight);
    }
    if (max > p.max[r]) {
        const __m512 behind = _mm512_sub_ps(_mm512_set1_ps(p.max[r]), offset);
        const __m512 shrink = exp2_nonpositive(_mm512_mul_ps(behind, factor));
        float* out = p.out + r * p.D;
        for (int64_t c = 0; c < p.D; c += kLanes)
            _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_loadu_ps(out + c), shrink));
        p.sum[r] *= _mm512_cvtss_f32(shrink);
        p.max[r] = max;
    }
    p.sum[r] += _mm512_reduce_add_ps(sum);
}

void softmax(const SoftmaxBlock& p) {
    for (int64_t r = 0; r < p.visible.rows; ++r)
        if (p.visible.partial)
            softmax_row<true>(p, r);
        else
            softmax_row<false>(p, r);
}

struct Slopes {
    __m512 weight, d_score;
};

template <bool kPartial>
inline Slopes slopes(const SoftmaxBackwardBlock& p, int64_t r, int64_t c) {
    const VisibleBlock& visible = p.visible;
    if (visible.low[r] >= visible.high[r]) return {_mm512_setzero_ps(), _mm512_setzero_ps()};
    const Scores<kPartial> scores{p.scores + r * kKeys, visible.low[r], visible.high[r]};
    const __m512 scale = _mm512_set1_ps(p.scale);
    const __m512 exponent = _mm512_fmsub_ps(scores.at(c), scale, _mm512_set1_ps(p.lse[r]));
    const __m512 capped = _mm512_min_ps(_mm512_setzero_ps(), exponent);  // a probability is at most 1
    const __m512 weight = exp2_nonpositive(_mm512_mul_ps(capped, _mm512_set1_ps(kLog2E)));
    const __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(p.d_weights + r * kKeys + c), _mm512_set1_ps(p.delta[r]));
    return {weight, _mm512_mul_ps(_mm512_mul_ps(weight, scale), slope)};
}

/// Rows r and r + 1, whose values share words where rows are summed over; the last row may lack a partner.
template <bool kPartial>
void softmax_backward_rows(const SoftmaxBackwardBlock& p, int64_t r) {
    const bool both = r + 1 < p.visible.rows;
    for (int64_t c = p.visible.first; c < p.visible.last; c += kLanes) {
        const Slopes a = slopes<kPartial>(p, r, c);
        const Slopes b = both ? slopes<kPartial>(p, r + 1, c) : Slopes{_mm512_setzero_ps(), _mm512_setzero_ps()};
        const int64_t at = r / 2 * kKeys + c;
        _mm512_storeu_si512(static_cast<uint32_t*>(p.weights_t) + at, pair_words(a.weight, b.weight));
        _mm512_storeu_si512(static_cast<uint32_t*>(p.d_scores_t) + at, pair_words(a.d_score, b.d_score));
        store_rounded(static_cast<uint16_t*>(p.d_scores) + r * kKeys + c, a.d_score);
        if (both) store_rounded(static_cast<uint16_t*>(p.d_scores) + (r + 1) * kKeys + c, b.d_score);
    }
}

void softmax_backward(const SoftmaxBackwardBlock& p) {
    for (int64_t r = 0; r < p.visible.rows; r += 2)
        if (p.visible.partial)
            softmax_backward_rows<true>(p, r);
        else
            softmax_backward_rows<false>(p, r);
}

}  // namespace

const AttentionKernels& attention_kernels_bf16() {
    static const AttentionKernels kernels = [] {
        AttentionKernels k = attention_kernels_f32(false);
        k.per_word = 2;
        k.pack_left = pack_left;
        k.pack_transposed = pack_transposed;
        k.pack_right = pack_right;
        k.product = product;
        k.softmax = softmax;
        k.softmax_backward = softmax_backward;
        return k;
    }();
    return kernels;
}

}  // namespace noema::cpu

#pragma GCC pop_options
