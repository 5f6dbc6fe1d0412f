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
[[gnu::noinline]] void product_tile(const OperandProduct& p, int64_t row, int64_t column) {
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
        case 2: return product_panel<2>(p, column);
        case 3: return product_panel<3>(p, column);
    }
}

/// 16 values from column c of row r; zero where there is none.
inline __m512 row_values(const HeadRows& from, int64_t r, int64_t c) {
    if (r < from.begin || r >= from.end) return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(first_lanes(from.D - c), from.data + r * from.stride + c);
}

inline bool present(const HeadRows& from, int64_t r) {
    return r >= from.begin && r < from.end;
}

void pack_left(const HeadRows& from, int64_t count, void* to) {
    const int64_t padded = padded_to(from.D), whole = from.D / kLanes * kLanes;
    uint16_t* packed = static_cast<uint16_t*>(to);
    for (int64_t r = 0; r < count; ++r, packed += padded) {
        int64_t c = 0;
        if (present(from, r))
            for (const float* row = from.data + r * from.stride; c < whole; c += kLanes)
                store_rounded(packed + c, _mm512_loadu_ps(row + c));
        for (; c < padded; c += kLanes) store_rounded(packed + c, row_values(from, r, c));
    }
}

void pack_right(const HeadRows& from, int64_t count, void* to) {
    const int64_t padded = padded_to(from.D), whole = from.D / kLanes * kLanes;
    uint32_t* packed = static_cast<uint32_t*>(to);
    for (int64_t r = 0; r < count; r += 2, packed += padded) {
        int64_t c = 0;
        if (present(from, r) && present(from, r + 1))
            for (const float* row = from.data + r * from.stride; c < whole; c += kLanes)
                _mm512_storeu_si512(packed + c,
                                    pair_words(_mm512_loadu_ps(row + c), _mm512_loadu_ps(row + from.stride + c)));
        for (; c < padded; c += kLanes)
            _mm512_storeu_si512(packed + c, pair_words(row_values(from, r, c), row_values(from, r + 1, c)));
    }
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
    alignas(64) uint32_t words[kLanes * kWidestHead / 2];
    const int64_t row_words = padded_to(from.D) / 2;
    for (int64_t k = 0; k < kKeys; k += kLanes) {
        const HeadRows some{from.data + k * from.stride, from.stride, from.begin - k, from.end - k, from.D};
        pack_left(some, kLanes, words);
        for (int64_t c = 0; c < row_words; c += 4)
            transpose_four(words + c, row_words, static_cast<uint32_t*>(to) + c * kKeys + k);
    }
}

/// As in attention_f32.cpp, with degree 4 (error 3e-6): weights are rounded to 8 bits anyway.
struct Exp2 {
    __m512 factor, lowest;

    explicit Exp2(float f) : factor(_mm512_set1_ps(f)), lowest(_mm512_set1_ps(-126.0f / f)) {}

    __m512 operator()(__m512 x) const {
        const __m512 magic = _mm512_set1_ps(12582912.0f);
        const __m512 z = _mm512_fmadd_ps(x, factor, magic);
        const __m512 f = _mm512_fmsub_ps(x, factor, _mm512_sub_ps(z, magic));
        __m512 y = _mm512_fmadd_ps(_mm512_set1_ps(9.5828530972e-3f), f, _mm512_set1_ps(5.5906424597e-2f));
        y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4024098610e-1f));
        y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9312419342e-1f));
        y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
        const __mmask16 keep = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ);
        const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(z), 23);
        return _mm512_castsi512_ps(_mm512_maskz_add_epi32(keep, _mm512_castps_si512(y), n));
    }
};

constexpr float kLog2E = 1.44269504088896341f;

/// Lanes of each of four vectors folded to one value: lane i from v[i].
template <class Fold>
inline __m128 fold_four(const __m512 (&v)[4], Fold fold) {
    const __m512 ab = fold(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 cd = fold(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512 all = fold(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    const __m512 halves = fold(all, _mm512_shuffle_f32x4(all, all, 0x4E));
    return _mm512_castps512_ps128(fold(halves, _mm512_shuffle_f32x4(halves, halves, 0xB1)));
}
inline __m512 most_of(__m512 a, __m512 b) {
    return _mm512_max_ps(a, b);
}
inline __m512 sum_of(__m512 a, __m512 b) {
    return _mm512_add_ps(a, b);
}

void multiply_row(float* row, float factor, int64_t n) {
    for (int64_t c = 0; c < n; c += kLanes)
        _mm512_storeu_ps(row + c, _mm512_mul_ps(_mm512_loadu_ps(row + c), _mm512_set1_ps(factor)));
}

/// As in attention_f32.cpp.
inline void raise_maxima(const SoftmaxBlock& p, int64_t r, float* shrink) {
    const float* scores = p.scores + r * kKeys;
    __m512 v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) v[i] = _mm512_loadu_ps(scores + i * kKeys + p.visible.first);
    for (int64_t c = p.visible.first + kLanes; c < p.visible.last; c += kLanes) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) v[i] = _mm512_max_ps(_mm512_loadu_ps(scores + i * kKeys + c), v[i]);
    }
    const __m128 before = _mm_loadu_ps(p.max + r), now = _mm_max_ps(fold_four(v, most_of), before);
    const __m512 behind = _mm512_castps128_ps512(_mm_sub_ps(before, now));
    _mm_storeu_ps(p.max + r, now);
    _mm_storeu_ps(shrink, _mm512_castps512_ps128(Exp2(p.scale * kLog2E)(behind)));
}

inline void weigh(const SoftmaxBlock& p, int64_t r, const float* shrink) {
    const float* scores = p.scores + r * kKeys;
    uint16_t* weights = static_cast<uint16_t*>(p.weights) + r * kKeys;
    const Exp2 exp2(p.scale * kLog2E);
    __m512 v[4], max[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_setzero_ps();
        max[i] = _mm512_set1_ps(p.max[r + i]);
    }
    for (int64_t c = p.visible.first; c < p.visible.last; c += kLanes) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512 weight = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores + i * kKeys + c), max[i]));
            v[i] = _mm512_add_ps(v[i], weight);
            store_rounded(weights + i * kKeys + c, weight);
        }
    }
    const __m128 earlier = _mm_mul_ps(_mm_loadu_ps(p.sum + r), _mm_loadu_ps(shrink));
    _mm_storeu_ps(p.sum + r, _mm_add_ps(earlier, fold_four(v, sum_of)));
}

void softmax(const SoftmaxBlock& p) {
    float shrink[kQueries];
    for (int64_t r = 0; r < p.visible.rows; r += kGroup) raise_maxima(p, r, shrink + r);
    for (int64_t r = 0; r < p.visible.rows; r += kGroup) weigh(p, r, shrink + r);
    for (int64_t r = 0; r < p.visible.rows; ++r)
        if (shrink[r] != 1.0f) multiply_row(p.out + r * p.D, shrink[r], p.D);
}

struct Slopes {
    __m512 weight, d_score;
};

inline Slopes slopes(const SoftmaxBackwardBlock& p, const Exp2& exp2, int64_t r, int64_t c) {
    const __m512 scale = _mm512_set1_ps(p.scale);
    const __m512 exponent = _mm512_fmsub_ps(_mm512_loadu_ps(p.scores + r * kKeys + c), scale, _mm512_set1_ps(p.lse[r]));
    const __m512 capped = _mm512_min_ps(_mm512_setzero_ps(), exponent);  // a probability is at most 1
    const __m512 weight = exp2(capped);
    const __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(p.d_weights + r * kKeys + c), _mm512_set1_ps(p.delta[r]));
    return {weight, _mm512_mul_ps(_mm512_mul_ps(weight, scale), slope)};
}

/// Rows share words in twos where rows are summed over; an odd last one gets a zero partner.
void softmax_backward(const SoftmaxBackwardBlock& p) {
    uint32_t* weights_t = static_cast<uint32_t*>(p.weights_t);
    uint32_t* d_scores_t = static_cast<uint32_t*>(p.d_scores_t);
    uint16_t* d_scores = static_cast<uint16_t*>(p.d_scores);
    const Exp2 exp2(kLog2E);
    for (int64_t r = 0; r < p.visible.rows; r += 2) {
        const bool both = r + 1 < p.visible.rows;
        for (int64_t c = p.visible.first; c < p.visible.last; c += kLanes) {
            const Slopes a = slopes(p, exp2, r, c);
            const Slopes b = both ? slopes(p, exp2, r + 1, c) : Slopes{_mm512_setzero_ps(), _mm512_setzero_ps()};
            _mm512_storeu_si512(weights_t + r / 2 * kKeys + c, pair_words(a.weight, b.weight));
            _mm512_storeu_si512(d_scores_t + r / 2 * kKeys + c, pair_words(a.d_score, b.d_score));
            store_rounded(d_scores + r * kKeys + c, a.d_score);
            store_rounded(d_scores + (r + 1) * kKeys + c, b.d_score);
        }
    }
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
