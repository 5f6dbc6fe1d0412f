// What the kernels of attention share: where heads lie, what a query sees, how the sums over two ranges of keys become
// one.
//
// The law that a row's bits may not depend on the other rows shapes all of it. Keys are cut into tiles at fixed
// positions and tiles into parts of kPartKeys; the sums of a part start from nothing, and parts are blended in order.
// So it is all the same whether one block walks all parts or every part has a block of its own.
#pragma once

#include "common/launch.h"
#include "common/reduce.h"
#include "noema/arena.h"
#include "noema/ops/attention.h"

namespace noema::cuda {

/// Keys of a tile, and of a part.
constexpr int kTileKeys = 64, kPartKeys = 512;
constexpr float kLog2E = 1.44269504f;

/// A tensor [B,T,heads,D].
struct Heads {
    float* data = nullptr;
    int64_t sequence = 0, position = 0, head = 0;  // strides
    bool quads = false, pairs = false;             // rows may be read 16 or 8 bytes at a time

    __device__ __forceinline__ float* row(int b, int t, int h) const {
        return data + b * sequence + t * position + h * head;
    }
};

Heads heads_of(const View& v);

struct KeyMask {
    const int *key_start = nullptr, *key_end = nullptr;
    int64_t start_stride = 0, end_stride = 0, offset = 0, window = 0;
    bool causal = false;
};

KeyMask mask_of(const AttentionMask& mask);

struct AttentionSizes {
    int B, Tq, Tk, Hkv, group, D;

    AttentionSizes(const View& q, const View& k);
    /// Queries of all heads that share one key/value head; row r is query r / group of head r % group.
    __host__ __device__ int rows() const { return Tq * group; }
};

/// Keys [low, high) are seen; none when low >= high. Both ends never fall from one query to the next.
struct KeyRun {
    int low, high;
    __device__ __forceinline__ bool has(int key) const { return key >= low && key < high; }
    __device__ __forceinline__ bool covers(int first, int end) const { return low <= first && end <= high; }
};

__device__ __forceinline__ KeyRun visible_keys(const KeyMask& mask, int b, int i, int Tk) {
    int64_t low = 0, high = Tk;
    if (mask.key_start) low = mask.key_start[b * mask.start_stride];
    if (mask.key_end) high = min(high, int64_t{mask.key_end[b * mask.end_stride]});
    if (mask.causal) {
        const int64_t position = mask.offset + i;
        high = min(high, position + 1);
        if (mask.window > 0) low = min(max(low, position - mask.window + 1), int64_t{Tk});
    }
    return {static_cast<int>(low), static_cast<int>(high)};
}

/// Four values of a row from `column` on; zeros beyond the row's end or when it is not `wanted`.
__device__ __forceinline__ float4 load_quad(const float* row, int column, int D, bool quads, bool wanted) {
    float4 x = make_float4(0, 0, 0, 0);
    if (!wanted || column >= D) return x;
    if (quads) return *reinterpret_cast<const float4*>(row + column);
    x.x = row[column];
    if (column + 1 < D) x.y = row[column + 1];
    if (column + 2 < D) x.z = row[column + 2];
    if (column + 3 < D) x.w = row[column + 3];
    return x;
}

__device__ __forceinline__ void store_quad(float* row, int column, int D, bool quads, float4 x) {
    if (column >= D) return;
    if (quads) {
        *reinterpret_cast<float4*>(row + column) = x;
        return;
    }
    row[column] = x.x;
    if (column + 1 < D) row[column + 1] = x.y;
    if (column + 2 < D) row[column + 2] = x.z;
    if (column + 3 < D) row[column + 3] = x.w;
}

/// Two neighbours of a row of D, `column` even.
__device__ __forceinline__ void store_pair(float* row, int column, int D, bool pairs, float2 x) {
    if (column >= D) return;
    if (pairs) {
        *reinterpret_cast<float2*>(row + column) = x;
        return;
    }
    row[column] = x.x;
    if (column + 1 < D) row[column + 1] = x.y;
}
__device__ __forceinline__ float2 load_pair(const float* row, int column, int D, bool pairs) {
    float2 x = make_float2(0, 0);
    if (column >= D) return x;
    if (pairs) return *reinterpret_cast<const float2*>(row + column);
    x.x = row[column];
    if (column + 1 < D) x.y = row[column + 1];
    return x;
}

// --- online softmax --------------------------------------------------------------------------------------------------

// Where products and sums meet, fmaf is spelled out: a compiler that may fuse them need not do so alike in every form
// of a kernel, and the forms have to agree to the bit.

/// What a row knows of the keys it has seen: the largest score, and the sum of 2^((score - largest) scale log2 e). A
/// sum of 0 means that it saw none (a NaN among the scores makes the sum NaN).
struct RowSum {
    float max = -INFINITY, sum = 0;

    /// The exponent's origin: unlike -inf it can be subtracted from -inf.
    __device__ __forceinline__ float origin() const { return max == -INFINITY ? 0.0f : max; }
    /// Makes room for scores up to `score`; returns the factor for what was summed so far, `sum` included.
    __device__ __forceinline__ float raise(float score, float scale2) {
        const float before = max;
        max = fmaxf(max, score);
        return fast_exp2((before - origin()) * scale2);
    }
    __device__ __forceinline__ float log_sum(float scale) const {
        return sum == 0 ? -INFINITY : fmaf(max, scale, logf(sum));
    }
    __device__ __forceinline__ float inverse() const { return sum == 0 ? 0.0f : 1.0f / sum; }
};

/// How the values of the next part join those of the parts before it.
struct Blend {
    float keep = 1, add = 0;
    bool first = false, none = false;

    __device__ __forceinline__ float operator()(float total, float part) const {
        return none ? total : first ? part : fmaf(total, keep, part * add);
    }
};

__device__ __forceinline__ Blend blend(RowSum& total, const RowSum& part, float scale2) {
    Blend b;
    if (part.sum == 0) {
        b.none = true;
    } else if (total.sum == 0) {
        b.first = true;
        total = part;
    } else {
        const float most = fmaxf(total.max, part.max), origin = most == -INFINITY ? 0.0f : most;
        b.keep = fast_exp2((total.max - origin) * scale2);
        b.add = fast_exp2((part.max - origin) * scale2);
        total.sum = fmaf(total.sum, b.keep, part.sum * b.add);
        total.max = most;
    }
    return b;
}

// --- forward ---------------------------------------------------------------------------------------------------------

/// bf16 copies of heads, one head after the other: [B * heads][rows][width + 8], zeros where nothing is. The 8 values
/// at a row's end keep the rows of a tile in different banks of shared memory; a tile is one run of bytes.
struct Packed {
    bf16* data = nullptr;
    int rows = 0, width = 0;

    __host__ __device__ int stride() const { return width + 8; }
    __device__ __forceinline__ const bf16* tile(int head, int row) const {
        return data + (int64_t{head} * rows + row) * stride();
    }
};

struct AttentionForward {
    AttentionSizes n;
    Heads q, k, v, out;
    float* lse;
    int64_t lse_sequence, lse_head;
    KeyMask mask;
    float scale, scale2;  // scale2 = scale log2 e: of the exponent of 2
    Packed keys, values;  // what k and v hold, when packed
    // With a block per part: sums of [parts][B][Hkv][rows] and their values [..][D].
    int parts;
    RowSum* part_sums;
    float* part_values;
};

/// Where a row's results go.
struct RowPlace {
    float *out, *lse;
    int64_t part;  // the row in part_sums
};

/// What a block works on. Sequence and key/value head are kept as one number: registers are short.
struct RowTile {
    int head, first, part;

    /// Late queries first: with a causal mask they have the most to do.
    __device__ __forceinline__ RowTile(const AttentionForward& p, int tile_rows) {
        const int tiles = (p.n.rows() + tile_rows - 1) / tile_rows;
        unsigned index = blockIdx.x;
        part = static_cast<int>(index % p.parts);
        index /= p.parts;
        first = (tiles - 1 - static_cast<int>(index % tiles)) * tile_rows;
        head = static_cast<int>(index / tiles);
    }
    __device__ __forceinline__ int b(const AttentionForward& p) const { return head / p.n.Hkv; }
    __device__ __forceinline__ int g(const AttentionForward& p) const { return head % p.n.Hkv; }
    __device__ __forceinline__ KeyRun run(const AttentionForward& p, int row) const {
        return visible_keys(p.mask, b(p), min(row, p.n.rows() - 1) / p.n.group, p.n.Tk);
    }
    /// Keys that any of the rows up to `end` sees.
    __device__ __forceinline__ KeyRun keys(const AttentionForward& p, int end) const {
        KeyRun keys{run(p, first).low, run(p, end - 1).high};
        if (p.parts > 1) {
            keys.low = max(keys.low, part * kPartKeys);
            keys.high = min(keys.high, (part + 1) * kPartKeys);
        }
        return keys;
    }
    __device__ __forceinline__ const float* query_row(const AttentionForward& p, int row) const {
        return p.q.row(b(p), row / p.n.group, g(p) * p.n.group + row % p.n.group);
    }
    __device__ __forceinline__ RowPlace place(const AttentionForward& p, int row) const {
        const int i = row / p.n.group, h = g(p) * p.n.group + row % p.n.group;
        return {p.out.row(b(p), i, h), p.lse + b(p) * p.lse_sequence + h * p.lse_head + i,
                (int64_t{part} * p.n.B * p.n.Hkv + head) * p.n.rows() + row};
    }
};

Status attention_f32(const AttentionForward& p, const Stream& stream);
Status attention_bf16(const AttentionForward& p, const Stream& stream);

/// Rows of a tile of the f32 form for heads of this width.
int attention_f32_rows(int D);

/// The width that the bf16 form works with.
constexpr int padded_width(int64_t D) {
    return D <= 32 ? 32 : D <= 64 ? 64 : D <= 128 ? 128 : 256;
}

// --- packing ---------------------------------------------------------------------------------------------------------

/// Two tensors of one shape to pack. Rows outside [low, high), and of keys those outside the sequence's start and end,
/// become zeros and are not read.
struct PackPair {
    Heads from[2];
    Packed to[2];
    int B, T, H, D, low, high;
    KeyMask mask;
    // Of queries (lse is there) rows of to[0] get a QueryNote behind their end; from[1] is d_out.
    Heads out;
    const float* lse = nullptr;
    int64_t lse_sequence = 0, lse_head = 0;
    int Tk = 0;
};

/// What backward wants to know of a query. 16 bytes, as many as a packed row has left.
struct QueryNote {
    float lse2;   // lse log2 e; +inf for a row without keys
    float delta;  // the sum of d_out out
    KeyRun run;   // of rows behind the last one: the last one's
};

/// Room for B * H heads of T rows.
size_t packed_heads_bytes(int64_t B, int64_t H, int64_t T, int64_t D);
Packed packed_heads(Workspace& workspace, const PackPair& p);
Status pack_heads(const PackPair& p, const Stream& stream);

/// Keys and values, as far as any query of the call sees them.
PackPair key_pair(const AttentionSizes& n, const KeyMask& mask, const Heads& k, const Heads& v);

}  // namespace noema::cuda
