// Attention: how a call is cut into blocks, and the blend of parts that had blocks of their own.
#include "attention.h"

#include <algorithm>

#include "cuda.h"

namespace noema::cuda {

Heads heads_of(const View& v) {
    const auto suits = [&](int64_t values) {
        bool fits = reinterpret_cast<uintptr_t>(v.data) % (static_cast<size_t>(values) * sizeof(float)) == 0;
        fits &= v.shape[3] % values == 0;
        for (int i = 0; i < 3; ++i) fits &= v.shape[i] <= 1 || v.stride[i] % values == 0;
        return fits;
    };
    return {v.as<float>(), v.stride[0], v.stride[1], v.stride[2], suits(4), suits(2)};
}

KeyMask mask_of(const AttentionMask& mask) {
    KeyMask m;
    if (mask.key_start) m.key_start = mask.key_start.as<int>(), m.start_stride = mask.key_start.stride[0];
    if (mask.key_end) m.key_end = mask.key_end.as<int>(), m.end_stride = mask.key_end.stride[0];
    m.offset = mask.query_offset;
    m.window = mask.window;
    m.causal = mask.causal;
    return m;
}

AttentionSizes::AttentionSizes(const View& q, const View& k)
    : B(static_cast<int>(q.shape[0])),
      Tq(static_cast<int>(q.shape[1])),
      Tk(static_cast<int>(k.shape[1])),
      Hkv(static_cast<int>(k.shape[2])),
      group(static_cast<int>(q.shape[2] / k.shape[2])),
      D(static_cast<int>(q.shape[3])) {}

namespace {

constexpr int kWarps = 4;

/// How a call is cut. Whichever way, the bits are the same.
struct Plan {
    bool packed = false;
    int parts = 1;  // with a block each
    int64_t rows = 0;
};

// Packing costs a pass over keys and values; f32 keys cost each tile of 128 rows twice the reading.
constexpr int kUnpackedRows = 256;
constexpr int64_t kMostPartBytes = int64_t{64} << 20;

Plan plan_of(const Attention& p, const Stream& stream) {
    const AttentionSizes n(p.q, p.k);
    const bool f32 = p.precision == Precision::f32;
    Plan plan;
    plan.rows = int64_t{n.B} * n.Hkv * n.Tq * n.group;
    plan.packed = !f32 && (padded_width(n.D) == 256 || int64_t{n.Tq} * n.group > kUnpackedRows);
    const int64_t tile = f32 ? attention_f32_rows(n.D) : plan.packed ? 64 : 128;
    const int64_t blocks = ceil_div(int64_t{n.Tq} * n.group, tile) * n.B * n.Hkv;
    const int64_t parts = ceil_div(n.Tk, kPartKeys);
    const int64_t bytes = plan.rows * parts * (n.D * sizeof(float) + sizeof(RowSum));
    if (blocks < queue_of(stream).device.multiprocessors && bytes <= kMostPartBytes)
        plan.parts = static_cast<int>(std::max<int64_t>(parts, 1));
    return plan;
}

size_t workspace_of(const Attention& p, const Stream& stream) {
    const AttentionSizes n(p.q, p.k);
    const Plan plan = plan_of(p, stream);
    size_t bytes = 0;
    if (plan.packed) bytes += 2 * packed_heads_bytes(n.B, n.Hkv, n.Tk, n.D);
    if (plan.parts > 1)
        bytes += workspace_bytes<RowSum>(plan.rows * plan.parts) + workspace_bytes<float>(plan.rows * plan.parts * n.D);
    return bytes;
}

/// A warp per row: the parts in order, as the block that walks them all would blend them.
__global__ void __launch_bounds__(32 * kWarps) attention_blend(AttentionForward p) {
    const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    const int64_t per_part = int64_t{p.n.B} * p.n.Hkv * p.n.rows();
    if (row >= per_part) return;
    const int r = static_cast<int>(row % p.n.rows()), head = static_cast<int>(row / p.n.rows());
    const int b = head / p.n.Hkv, h = head % p.n.Hkv * p.n.group + r % p.n.group, i = r / p.n.group;
    float* out = p.out.row(b, i, h);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int c = lane; c < p.n.D || c == lane; c += 32) {
        RowSum total;
        float value = 0;
        for (int part = 0; part < p.parts; ++part) {
            const int64_t at = part * per_part + row;
            const Blend both = blend(total, p.part_sums[at], p.scale2);
            value = both(value, c < p.n.D ? p.part_values[at * p.n.D + c] : 0.0f);
        }
        if (c < p.n.D) out[c] = value * total.inverse();
        if (c == 0 && p.lse) p.lse[b * p.lse_sequence + h * p.lse_head + i] = total.log_sum(p.scale);
    }
}

Status run(const Attention& a, const Stream& stream, Workspace workspace) {
    const AttentionSizes n(a.q, a.k);
    const Plan plan = plan_of(a, stream);
    if (int64_t{n.Tq} * n.group >= int64_t{1} << 30)
        return Status::error(Code::unsupported, "attention: more than 2^30 queries that share keys");
    AttentionForward p{.n = n,
                       .q = heads_of(a.q),
                       .k = heads_of(a.k),
                       .v = heads_of(a.v),
                       .out = heads_of(a.out),
                       .lse = a.lse ? a.lse.as<float>() : nullptr,
                       .lse_sequence = a.lse.stride[0],
                       .lse_head = a.lse.stride[1],
                       .mask = mask_of(a.mask),
                       .scale = a.scale,
                       .scale2 = a.scale * kLog2E,
                       .keys = {},
                       .values = {},
                       .parts = plan.parts,
                       .part_sums = nullptr,
                       .part_values = nullptr};
    if (plan.rows == 0) return {};
    if (plan.packed) {
        PackPair pair = key_pair(n, p.mask, p.k, p.v);
        p.keys = pair.to[0] = packed_heads(workspace, pair);
        p.values = pair.to[1] = packed_heads(workspace, pair);
        NOEMA_TRY(pack_heads(pair, stream));
    }
    if (plan.parts > 1) {
        p.part_sums = workspace.take<RowSum>(plan.rows * plan.parts);
        p.part_values = workspace.take<float>(plan.rows * plan.parts * n.D);
    }
    NOEMA_TRY(a.precision == Precision::bf16 ? attention_bf16(p, stream) : attention_f32(p, stream));
    if (plan.parts == 1) return {};
    return launch("attention: blend", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(plan.rows, kWarps))), .threads = 32 * kWarps},
                  attention_blend, p);
}

}  // namespace

Op<Attention> attention_entry() {
    return {run, workspace_of};
}

}  // namespace noema::cuda
