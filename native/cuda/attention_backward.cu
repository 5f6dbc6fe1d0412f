#include "attention_backward.h"

#include "cuda.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 128;

/// A warp per query.
__global__ void __launch_bounds__(kThreads) attention_delta(AttentionGradients p) {
    const int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
    const int H = p.n.Hkv * p.n.group, lane = static_cast<int>(threadIdx.x) % 32;
    if (row >= int64_t{p.n.B} * H * p.n.Tq) return;
    const int i = static_cast<int>(row % p.n.Tq), head = static_cast<int>(row / p.n.Tq);
    const float *x = p.d_out.row(head / H, i, head % H), *y = p.out.row(head / H, i, head % H);
    float sum = 0;
    for (int c = lane; c < p.n.D; c += 32) sum = fmaf(x[c], y[c], sum);
    sum = warp_reduce(sum, Sum{});
    if (lane == 0) p.delta[row] = sum;
}

int64_t queries_of(const AttentionSizes& n) {
    return int64_t{n.B} * n.Hkv * n.group * n.Tq;
}

size_t workspace_of(const AttentionBackward& p, const Stream&) {
    const AttentionSizes n(p.q, p.k);
    if (p.precision == Precision::f32) return workspace_bytes<float>(queries_of(n));
    return 2 * packed_heads_bytes(n.B, n.Hkv * n.group, n.Tq, n.D) + 2 * packed_heads_bytes(n.B, n.Hkv, n.Tk, n.D);
}

Status run_f32(AttentionGradients p, const Stream& stream, Workspace workspace) {
    const int64_t queries = queries_of(p.n);
    p.delta = workspace.take<float>(queries);
    NOEMA_TRY(launch("attention backward: delta", stream,
                     {.blocks = dim3(static_cast<unsigned>(ceil_div(queries, kThreads / 32))), .threads = kThreads},
                     attention_delta, p));
    return attention_backward_f32(p, stream);
}

Status run_bf16(AttentionGradients p, const Stream& stream, Workspace workspace) {
    PackPair queries{.from = {p.q, p.d_out},
                     .to = {},
                     .B = p.n.B,
                     .T = p.n.Tq,
                     .H = p.n.Hkv * p.n.group,
                     .D = p.n.D,
                     .low = 0,
                     .high = p.n.Tq,
                     .mask = p.mask,
                     .out = p.out,
                     .lse = p.lse,
                     .lse_sequence = p.lse_sequence,
                     .lse_head = p.lse_head,
                     .Tk = p.n.Tk};
    PackPair keys = key_pair(p.n, p.mask, p.k, p.v);
    p.queries = queries.to[0] = packed_heads(workspace, queries);
    p.d_outs = queries.to[1] = packed_heads(workspace, queries);
    p.keys = keys.to[0] = packed_heads(workspace, keys);
    p.values = keys.to[1] = packed_heads(workspace, keys);
    NOEMA_TRY(pack_heads(queries, stream));
    NOEMA_TRY(pack_heads(keys, stream));
    return attention_backward_bf16(p, stream);
}

Status run(const AttentionBackward& a, const Stream& stream, Workspace workspace) {
    const AttentionGradients p{.n = AttentionSizes(a.q, a.k),
                               .q = heads_of(a.q),
                               .k = heads_of(a.k),
                               .v = heads_of(a.v),
                               .out = heads_of(a.out),
                               .d_out = heads_of(a.d_out),
                               .d_q = heads_of(a.d_q),
                               .d_k = heads_of(a.d_k),
                               .d_v = heads_of(a.d_v),
                               .lse = a.lse.as<float>(),
                               .lse_sequence = a.lse.stride[0],
                               .lse_head = a.lse.stride[1],
                               .mask = mask_of(a.mask),
                               .scale = a.scale,
                               .scale2 = a.scale * kLog2E,
                               .queries = {},
                               .d_outs = {},
                               .keys = {},
                               .values = {},
                               .delta = nullptr};
    return a.precision == Precision::f32 ? run_f32(p, stream, workspace) : run_bf16(p, stream, workspace);
}

}  // namespace

Op<AttentionBackward> attention_backward_entry() {
    return {run, workspace_of};
}

}  // namespace noema::cuda
