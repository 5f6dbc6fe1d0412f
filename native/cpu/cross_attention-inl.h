// Blocks of cross-attention: up to kBlockTokens tokens and the latents of one head, whose rows were packed side by side and
// lie in the first-level cache. Weights are [latents][kBlockTokens], so that a softmax needs no sums over lanes.
//
// Tokens go four at a time. A last group that is not whole takes its last row again, into the same place: a row's arithmetic
// is the same wherever it stands.
#if defined(NOEMA_CPU_CROSS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NOEMA_CPU_CROSS_ATTENTION_INL_H_
#undef NOEMA_CPU_CROSS_ATTENTION_INL_H_
#else
#define NOEMA_CPU_CROSS_ATTENTION_INL_H_
#endif

#include "cpu/cross_attention.h"
#include "cpu/fold-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(DF()));
static_assert(kLatentPad % kLanes == 0 && kBlockTokens % kLanes == 0);

// Tiles of 4 rows x kTile vectors: 16 sums of AVX-512's 32 registers, 8 of AVX2's 16.
constexpr int kTile = kLanes == 16 ? 4 : 2;
static_assert(kLatentGroup % kTile == 0);

/// Four rows from row t on, the last one again beyond the end.
template <class T>
struct FourRows {
    T* row[4];
    HWY_INLINE FourRows(T* data, int64_t stride, int64_t t, int64_t count) {
        for (int64_t i = 0; i < 4; ++i) row[i] = data + (t + i < count ? t + i : count - 1) * stride;
    }
};

HWY_INLINE int64_t whole_groups(int64_t count) {
    return (count + 3) / 4 * 4;
}

HWY_INLINE VF load_part(const float* p, int64_t n) {
    return n >= kLanes ? hn::LoadU(DF(), p) : load_n(DF(), p, static_cast<size_t>(n));
}
HWY_INLINE void store_part(VF v, float* p, int64_t n) {
    n >= kLanes ? hn::StoreU(v, DF(), p) : store_n(v, DF(), p, static_cast<size_t>(n));
}

/// to[m][i] = row i . latent m of kTile latents.
HWY_INLINE void dot_tile(const FourRows<const float>& x, const PackedLatents& latents, const float* latent, float* to) {
    const DF d;
    VF sum[kTile][4];
    HWY_UNROLL(4)
    for (int m = 0; m < kTile; ++m) {
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) sum[m][i] = hn::Zero(d);
    }
    const auto add = [&](int64_t c, auto load) HWY_ATTR {
        VF r[4];
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) r[i] = load(x.row[i] + c);
        HWY_UNROLL(4)
        for (int m = 0; m < kTile; ++m) {
            const VF l = hn::LoadU(d, latent + m * latents.width + c);
            HWY_UNROLL(4)
            for (int i = 0; i < 4; ++i) sum[m][i] = hn::MulAdd(r[i], l, sum[m][i]);
        }
    };
    int64_t c = 0;
    for (; c + kLanes <= latents.D; c += kLanes) add(c, [](const float* p) HWY_ATTR { return hn::LoadU(DF(), p); });
    if (c < latents.D) {
        const size_t rest = static_cast<size_t>(latents.D - c);
        add(c, [rest](const float* p) HWY_ATTR { return load_n(DF(), p, rest); });
    }
    for (int m = 0; m < kTile; ++m) fold_four(sum[m], Plus(), to + m * kBlockTokens);
}

/// dots[m][t] = x[t] . latent m; the latents that only fill a group give zeros.
HWY_INLINE void dots_of(const TokenRows& x, const PackedLatents& latents, float* dots) {
    for (int64_t t = 0; t < x.count; t += 4) {
        const FourRows<const float> rows(x.data, x.stride, t, x.count);
        for (int64_t m = 0; m < latents.padded_M(); m += kTile)
            dot_tile(rows, latents, latents.row(m), dots + m * kBlockTokens + t);
    }
}

/// Scores become weights, those of rows that were taken again too.
HWY_INLINE void softmax_block(float* scores, int64_t M, int64_t count) {
    const DF d;
    const Exp2<DF> exp2(kLog2E);
    for (int64_t t = 0; t < whole_groups(count); t += kLanes) {
        float* column = scores + t;
        VF most = hn::LoadU(d, column), total = hn::Zero(d);
        for (int64_t m = 1; m < M; ++m) most = hn::Max(hn::LoadU(d, column + m * kBlockTokens), most);
        for (int64_t m = 0; m < M; ++m) {
            const VF weight = exp2(hn::Sub(hn::LoadU(d, column + m * kBlockTokens), most));
            total = hn::Add(total, weight);
            hn::StoreU(weight, d, column + m * kBlockTokens);
        }
        const VF factor = hn::Div(hn::Set(d, 1.0f), total);
        for (int64_t m = 0; m < M; ++m)
            hn::StoreU(hn::Mul(hn::LoadU(d, column + m * kBlockTokens), factor), d, column + m * kBlockTokens);
    }
}

/// to[i][c..] = sum over m of weights[m][i] latent m, kVectors vectors wide.
template <int kVectors>
HWY_INLINE void mix_tile(const float* weights, const PackedLatents& latents, int64_t c, const FourRows<float>& to) {
    const DF d;
    VF sum[4][kVectors];
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
        HWY_UNROLL(4)
        for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::Zero(d);
    }
    for (int64_t m = 0; m < latents.M; ++m) {
        const float* latent = latents.row(m) + c;
        VF l[kVectors];
        HWY_UNROLL(4)
        for (int j = 0; j < kVectors; ++j) l[j] = hn::LoadU(d, latent + j * kLanes);
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            const VF w = hn::Set(d, weights[m * kBlockTokens + i]);
            HWY_UNROLL(4)
            for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(w, l[j], sum[i][j]);
        }
    }
    for (int j = 0; j < kVectors; ++j)
        for (int i = 0; i < 4; ++i) store_part(sum[i][j], to.row[i] + c + j * kLanes, latents.D - c - j * kLanes);
}

/// to[t] = sum over m of weights[m][t] latent m.
HWY_INLINE void mix_latents(const float* weights, const PackedLatents& latents, float* to, int64_t stride,
                            int64_t count) {
    for (int64_t t = 0; t < count; t += 4) {
        const FourRows<float> rows(to, stride, t, count);
        int64_t c = 0;
        for (; c + kTile * kLanes <= latents.D; c += kTile * kLanes) mix_tile<kTile>(weights + t, latents, c, rows);
        for (; c < latents.D; c += kLanes) mix_tile<1>(weights + t, latents, c, rows);
    }
}

/// sums[i][c..] += sum over t of weights[i][t] x[t], four latents, kVectors vectors wide.
template <int kVectors>
HWY_INLINE void gather_tile(const float* weights, const TokenRows& x, int64_t c, float* sums,
                            const PackedLatents& shape) {
    const DF d;
    VF sum[4][kVectors];
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
        HWY_UNROLL(4)
        for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::LoadU(d, sums + i * shape.width + c + j * kLanes);
    }
    for (int64_t t = 0; t < x.count; ++t) {
        const float* row = x.data + t * x.stride + c;
        VF r[kVectors];
        HWY_UNROLL(4)
        for (int j = 0; j < kVectors; ++j) r[j] = load_part(row + j * kLanes, kVectors > 1 ? kLanes : shape.D - c);
        HWY_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            const VF w = hn::Set(d, weights[i * kBlockTokens + t]);
            HWY_UNROLL(4)
            for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(w, r[j], sum[i][j]);
        }
    }
    HWY_UNROLL(4)
    for (int i = 0; i < 4; ++i) {
        HWY_UNROLL(4)
        for (int j = 0; j < kVectors; ++j) hn::StoreU(sum[i][j], d, sums + i * shape.width + c + j * kLanes);
    }
}

/// sums[m] += sum over t of weights[m][t] x[t]; `shape` tells how rows of sums lie.
HWY_INLINE void gather_tokens(const float* weights, const TokenRows& x, const PackedLatents& shape, float* sums) {
    for (int64_t m = 0; m < shape.M; m += 4) {
        const float* w = weights + m * kBlockTokens;
        float* to = sums + m * shape.width;
        int64_t c = 0;
        for (; c + kTile * kLanes <= shape.D; c += kTile * kLanes) gather_tile<kTile>(w, x, c, to, shape);
        for (; c < shape.D; c += kLanes) gather_tile<1>(w, x, c, to, shape);
    }
}

/// From weights and d_P to d_scores = P (d_P - sum(P d_P)), in d_P's place.
HWY_INLINE void softmax_backward_block(const float* weights, float* d_weights, int64_t M, int64_t count) {
    const DF d;
    for (int64_t t = 0; t < whole_groups(count); t += kLanes) {
        VF delta = hn::Zero(d);
        for (int64_t m = 0; m < M; ++m)
            delta = hn::MulAdd(hn::LoadU(d, weights + m * kBlockTokens + t),
                               hn::LoadU(d, d_weights + m * kBlockTokens + t), delta);
        for (int64_t m = 0; m < M; ++m) {
            float* at = d_weights + m * kBlockTokens + t;
            const VF slope = hn::Sub(hn::LoadU(d, at), delta);
            hn::StoreU(hn::Mul(hn::LoadU(d, weights + m * kBlockTokens + t), slope), d, at);
        }
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
