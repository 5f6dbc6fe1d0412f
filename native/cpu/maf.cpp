// maf_features and its backward. Vectors run over (j, e) flat, whatever E: a scalar's values are computed once, vectors of
// neighbouring scalars, and spread over their E lanes. So no lane is idle but at a row's end, and weights are read once per
// kBlockRows rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/maf.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "cpu/activations-inl.h"
#include "cpu/column_sums.h"
#include "cpu/cpu.h"
#include "cpu/lane_groups-inl.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

// Blocks of 8 rows x 64 scalars: 10 KB of values for the forward pass, 15 KB for the backward, in the first-level cache beside
// the weights of 64 scalars (4 KB where E is 4). 64 E is a multiple of every vector's length.
constexpr int64_t kBlockRows = 8, kScalars = 64, kMostLanes = 16;

/// One value per row and scalar of a block; a vector may be read from any scalar on.
struct alignas(64) BlockValues {
    float at[kBlockRows][kScalars + kMostLanes];
};

struct Block {
    int64_t row, rows, scalar, scalars;
};

/// body(block) for rows [first, last) and all c - 1 scalars.
template <class Body>
HWY_INLINE void each_block(int64_t first, int64_t last, int64_t scalars, const Body& body) {
    for (int64_t r = first; r < last; r += kBlockRows)
        for (int64_t j = 0; j < scalars; j += kScalars)
            body(Block{r, std::min(kBlockRows, last - r), j, std::min(kScalars, scalars - j)});
}

/// Of one vector of (j, e): where it lies, and its lanes' scalars.
struct Place {
    int64_t element;  // of all (j, e)
    int64_t n;        // lanes in use
    int64_t scalar;   // lane 0's, in the block
    int64_t in_scalar;
};

template <class Body>
HWY_INLINE void each_vector(const Block& b, int64_t E, const Body& body) {
    const int64_t L = static_cast<int64_t>(hn::Lanes(DF())), end = b.scalars * E;
    for (int64_t i = 0; i < end; i += L) body(Place{b.scalar * E + i, std::min(L, end - i), i / E, i % E});
}

struct Triple {
    VF v[3];
};

/// n <= Lanes triples; what is beyond is zero.
HWY_INLINE Triple load_triples(const float* p, int64_t n) {
    const DF d;
    Triple t;
    if (n == static_cast<int64_t>(hn::Lanes(d))) {
        hn::LoadInterleaved3(d, p, t.v[0], t.v[1], t.v[2]);
    } else {
        alignas(64) float rest[3 * kMostLanes] = {};
        std::memcpy(rest, p, sizeof(float) * 3 * static_cast<size_t>(n));
        hn::LoadInterleaved3(d, rest, t.v[0], t.v[1], t.v[2]);
    }
    return t;
}

HWY_INLINE void store_triples(const Triple& t, float* p, int64_t n) {
    const DF d;
    if (n == static_cast<int64_t>(hn::Lanes(d))) {
        hn::StoreInterleaved3(t.v[0], t.v[1], t.v[2], d, p);
    } else {
        alignas(64) float rest[3 * kMostLanes];
        hn::StoreInterleaved3(t.v[0], t.v[1], t.v[2], d, rest);
        std::memcpy(p, rest, sizeof(float) * 3 * static_cast<size_t>(n));
    }
}

HWY_INLINE VF load_some(const float* p, int64_t n) {
    const DF d;
    return n == static_cast<int64_t>(hn::Lanes(d)) ? hn::LoadU(d, p) : load_n(d, p, static_cast<size_t>(n));
}
HWY_INLINE void store_some(VF v, float* p, int64_t n) {
    const DF d;
    if (n == static_cast<int64_t>(hn::Lanes(d)))
        hn::StoreU(v, d, p);
    else
        store_n(v, d, p, static_cast<size_t>(n));
}

/// x, elu(x), elu(-x) of a block's scalars; backward also the slopes of the last two.
struct Values {
    BlockValues x, rising, falling;
};
struct Slopes {
    BlockValues rising, falling;
};

HWY_INLINE void fill(const View& x, const Block& b, Values& values, Slopes* slopes) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t r = 0; r < b.rows; ++r) {
        const float* from = x.at<float>(b.row + r) + b.scalar;
        for (int64_t j = 0; j < b.scalars; j += L) {
            const VF v = load_some(from + j, std::min(L, b.scalars - j));
            const Elus e = elus(v);
            hn::StoreU(v, d, values.x.at[r] + j);
            hn::StoreU(e.rising, d, values.rising.at[r] + j);
            hn::StoreU(e.falling, d, values.falling.at[r] + j);
            if (!slopes) continue;
            hn::StoreU(e.rising_slope, d, slopes->rising.at[r] + j);
            hn::StoreU(e.falling_slope, d, slopes->falling.at[r] + j);
        }
    }
}

/// The values of one row, spread over a vector's lanes.
HWY_INLINE Triple spread(const Values& values, int64_t r, int64_t scalar, const LaneGroups& groups) {
    const DF d;
    return {{groups.spread(hn::LoadU(d, values.x.at[r] + scalar)),
             groups.spread(hn::LoadU(d, values.rising.at[r] + scalar)),
             groups.spread(hn::LoadU(d, values.falling.at[r] + scalar))}};
}

HWY_INLINE VF inner(const Triple& w, const Triple& f, VF bias) {
    return hn::MulAdd(w.v[0], f.v[0], hn::MulAdd(w.v[1], f.v[1], hn::MulAdd(w.v[2], f.v[2], bias)));
}

void maf_rows(const MafFeatures& p, int64_t first, int64_t last) {
    const int64_t E = p.bias.shape[1];
    const float *weight = p.weight.as<float>(), *bias = p.bias.as<float>();
    Values values;
    each_block(first, last, p.bias.shape[0], [&](const Block& b) HWY_ATTR {
        fill(p.x, b, values, nullptr);
        each_vector(b, E, [&](const Place& at) HWY_ATTR {
            const LaneGroups groups(E, at.in_scalar);
            const Triple w = load_triples(weight + 3 * at.element, at.n);
            const VF shift = load_some(bias + at.element, at.n);
            for (int64_t r = 0; r < b.rows; ++r) {
                const VF t = inner(w, spread(values, r, at.scalar, groups), shift);
                store_some(gelu_erf(t), p.y.at<float>(b.row + r) + at.element, at.n);
            }
        });
    });
}

/// d_weight, d_bias: this chunk's own sums, [c-1,E,3] and [c-1,E]. A vector's lanes of d_x are added up scalar by scalar and
/// collected in the block, whose sums go to d_x at its end.
void maf_rows_backward(const MafFeaturesBackward& p, float* d_weight, float* d_bias, int64_t first, int64_t last) {
    const DF d;
    const int64_t E = p.bias.shape[1];
    const float *weight = p.weight.as<float>(), *bias = p.bias.as<float>();
    Values values;
    Slopes slopes;
    BlockValues d_x;
    each_block(first, last, p.bias.shape[0], [&](const Block& b) HWY_ATTR {
        fill(p.x, b, values, &slopes);
        std::memset(&d_x, 0, sizeof d_x);
        each_vector(b, E, [&](const Place& at) HWY_ATTR {
            const LaneSums groups(E, at.in_scalar);
            const Triple w = load_triples(weight + 3 * at.element, at.n);
            const VF shift = load_some(bias + at.element, at.n), none = hn::Zero(d);
            const auto scalars = hn::FirstN(d, static_cast<size_t>(groups.count(at.n)));
            Triple d_w{{none, none, none}};
            VF d_b = none;
            if (b.row != first) {
                d_w = load_triples(d_weight + 3 * at.element, at.n);
                d_b = load_some(d_bias + at.element, at.n);
            }
            for (int64_t r = 0; r < b.rows; ++r) {
                const Triple f = spread(values, r, at.scalar, groups);
                const VF d_y = load_some(p.d_y.at<float>(b.row + r) + at.element, at.n);
                const VF g = hn::Mul(d_y, gelu_erf_slope(inner(w, f, shift)));
                for (int k = 0; k < 3; ++k) d_w.v[k] = hn::MulAdd(g, f.v[k], d_w.v[k]);
                d_b = hn::Add(d_b, g);
                const VF rising = groups.spread(hn::LoadU(d, slopes.rising.at[r] + at.scalar));
                const VF falling = groups.spread(hn::LoadU(d, slopes.falling.at[r] + at.scalar));
                const VF slope = hn::MulAdd(w.v[1], rising, hn::MulAdd(w.v[2], falling, w.v[0]));
                const VF sums = hn::IfThenElseZero(scalars, groups.sums(hn::Mul(g, slope)));
                float* to = d_x.at[r] + at.scalar;
                hn::StoreU(hn::Add(hn::LoadU(d, to), sums), d, to);
            }
            store_triples(d_w, d_weight + 3 * at.element, at.n);
            store_some(d_b, d_bias + at.element, at.n);
        });
        for (int64_t r = 0; r < b.rows; ++r) {
            float* to = p.d_x.at<float>(b.row + r) + b.scalar;
            for_each_vector(b.scalars, [&](auto load, auto store, int64_t)
                                           HWY_ATTR { store(hn::Add(load(to), load(d_x.at[r])), to); });
        }
    });
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(maf_rows);
HWY_EXPORT(maf_rows_backward);

namespace {

Status forward(const MafFeatures& p, const Stream& stream, Workspace) {
    if (p.y.size() == 0) return {};
    parallel_rows(stream, p.y.shape[0], p.y.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(maf_rows)(p, first, last);
    });
    return {};
}

RowChunks chunks(const MafFeaturesBackward& p) {
    return {p.x.shape[0], std::max<int64_t>(1, p.x.shape[0])};
}

size_t backward_workspace(const MafFeaturesBackward& p, const Stream&) {
    const int64_t n = chunks(p).count() * p.d_y.shape[1];
    return workspace_bytes<float>(3 * n) + workspace_bytes<float>(n);
}

Status backward(const MafFeaturesBackward& p, const Stream& stream, Workspace workspace) {
    if (p.d_y.size() == 0) return {};
    const int64_t N = p.d_y.shape[1];
    const RowChunks rows = chunks(p);
    float *d_weight = workspace.take<float>(3 * rows.count() * N), *d_bias = workspace.take<float>(rows.count() * N);
    parallel_for(stream, rows.count(), [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(maf_rows_backward)
        (p, d_weight + 3 * i * N, d_bias + i * N, rows.first(i), rows.last(i));
    });
    column_sums({d_weight, 1, rows.count(), 3 * N, p.d_weight.as<float>(), 3 * N, true}, stream);
    column_sums({d_bias, 1, rows.count(), N, p.d_bias.as<float>(), N, true}, stream);
    return {};
}

}  // namespace

Op<MafFeatures> maf_features_entry() {
    return {forward, nullptr};
}
Op<MafFeaturesBackward> maf_features_backward_entry() {
    return {backward, backward_workspace};
}

}  // namespace noema::cpu
#endif
