// Heads as bf16, once per call: for calls whose keys many blocks read, and for backward, where every block reads them
// twice.
#include <algorithm>

#include "attention.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void pack_eight(bf16* to, float4 x, float4 y) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
}

__device__ __forceinline__ float dot(float4 x, float4 y) {
    return x.x * y.x + x.y * y.y + (x.z * y.z + x.w * y.w);
}

/// Eight values a thread, a row to width / 8 lanes.
__global__ void __launch_bounds__(kThreads) pack_rows(PackPair p) {
    const int lanes = p.to[0].width / 8, lane = static_cast<int>(threadIdx.x) % lanes;
    const int64_t row = int64_t{blockIdx.x} * (kThreads / lanes) + threadIdx.x / lanes;
    const int64_t heads = int64_t{p.B} * p.H;
    const bool inside = row < heads * p.to[0].rows;
    const int t = static_cast<int>(row % p.to[0].rows), head = static_cast<int>(inside ? row / p.to[0].rows : 0);
    const int b = head / p.H, h = head % p.H;
    bool wanted = inside && t >= p.low && t < p.high;
    if (wanted && !p.lse && p.mask.key_start) wanted = t >= p.mask.key_start[b * p.mask.start_stride];
    if (wanted && !p.lse && p.mask.key_end) wanted = t < p.mask.key_end[b * p.mask.end_stride];
    float delta = 0;
    for (int i = 0; i < 2; ++i) {
        const float* from = wanted ? p.from[i].row(b, t, h) : nullptr;
        const float4 x = load_quad(from, 8 * lane, p.D, p.from[i].quads, wanted);
        const float4 y = load_quad(from, 8 * lane + 4, p.D, p.from[i].quads, wanted);
        if (inside) pack_eight(p.to[i].data + row * p.to[i].stride() + 8 * lane, x, y);
        if (!p.lse || i == 0) continue;
        const float* out = wanted ? p.out.row(b, t, h) : nullptr;
        delta = dot(x, load_quad(out, 8 * lane, p.D, p.out.quads, wanted)) +
                dot(y, load_quad(out, 8 * lane + 4, p.D, p.out.quads, wanted));
    }
    if (p.lse) delta = warp_reduce(delta, Sum{}, lanes);
    if (!inside || lane != 0) return;
    const float lse = p.lse && wanted ? p.lse[b * p.lse_sequence + h * p.lse_head + t] : -INFINITY;
    const float lse2 = lse == -INFINITY ? INFINITY : lse * kLog2E;
    const KeyRun run = p.lse ? visible_keys(p.mask, b, min(t, p.T - 1), p.Tk) : KeyRun{0, 0};
    for (int i = 0; i < 2; ++i)
        *reinterpret_cast<float4*>(p.to[i].data + row * p.to[i].stride() + p.to[i].width) =
            i == 0 ? make_float4(lse2, delta, __int_as_float(run.low), __int_as_float(run.high))
                   : make_float4(0, 0, 0, 0);
}

int64_t padded_rows(int64_t T) {
    return ceil_div(T, kTileKeys) * kTileKeys;
}

int64_t packed_values(int64_t B, int64_t H, int64_t T, int64_t D) {
    return B * H * padded_rows(T) * (padded_width(D) + 8);
}

}  // namespace

size_t packed_heads_bytes(int64_t B, int64_t H, int64_t T, int64_t D) {
    return workspace_bytes<bf16>(packed_values(B, H, T, D));
}

Packed packed_heads(Workspace& workspace, const PackPair& p) {
    return {workspace.take<bf16>(packed_values(p.B, p.H, p.T, p.D)), static_cast<int>(padded_rows(p.T)),
            padded_width(p.D)};
}

Status pack_heads(const PackPair& p, const Stream& stream) {
    const int rows_per_block = kThreads / (p.to[0].width / 8);
    const int64_t rows = int64_t{p.B} * p.H * p.to[0].rows;
    return launch("attention: pack", stream,
                  {.blocks = dim3(static_cast<unsigned>(ceil_div(rows, rows_per_block))), .threads = kThreads},
                  pack_rows, p);
}

PackPair key_pair(const AttentionSizes& n, const KeyMask& mask, const Heads& k, const Heads& v) {
    PackPair pair{
        .from = {k, v}, .to = {}, .B = n.B, .T = n.Tk, .H = n.Hkv, .D = n.D, .low = 0, .high = n.Tk, .mask = mask};
    if (mask.causal) pair.high = static_cast<int>(std::min<int64_t>(n.Tk, mask.offset + n.Tq));
    if (mask.causal && mask.window > 0)
        pair.low = static_cast<int>(std::clamp<int64_t>(mask.offset - mask.window + 1, 0, n.Tk));
    return pair;
}

}  // namespace noema::cuda
