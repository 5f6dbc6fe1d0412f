#include "head.h"

#include "head_state.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// --- gather ----------------------------------------------------------------------------------------------------------

struct Gather {
    const unsigned char* from;
    void* to;
    const int32_t *ids, *count;
    int64_t stride, first;
    int rows, columns, pitch;
    bool is_bf16, vector, to_bf16;
};

/// Eight columns per thread; the padding becomes zero.
__global__ void __launch_bounds__(kThreads) gather_pieces(Gather p) {
    const int pieces = p.pitch / 8;
    const int64_t piece = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = piece / pieces;
    const int column = static_cast<int>(piece - row * pieces) * 8;
    if (row >= (p.count ? *p.count : p.rows)) return;
    const int64_t source = p.ids ? p.ids[row] : p.first + row;
    const unsigned char* from = p.from + (source * p.stride + column) * (p.is_bf16 ? 2 : 4);
    const Raw raw = load_eight(from, p.columns - column, p.is_bf16, p.vector);
    const int64_t at = row * p.pitch + column;
    if (p.to_bf16) {
        *reinterpret_cast<uint4*>(static_cast<bf16*>(p.to) + at) = to_bf16s(raw, p.is_bf16);
    } else {
        uint4* to = reinterpret_cast<uint4*>(static_cast<float*>(p.to) + at);
        to[0] = raw.half[0];
        to[1] = raw.half[1];
    }
}

// --- finish ----------------------------------------------------------------------------------------------------------

struct Finish {
    const HeadState* slices;
    HeadState* states;
    const int32_t* count;
    int rows, slice_count, first_token;
    float beta;
    HeadOutputs out;
};

__device__ __forceinline__ HeadState from_lane(const HeadState& s, int bits) {
    HeadState r;
    r.max = __shfl_xor_sync(kAllLanes, s.max, bits);
    r.sum = __shfl_xor_sync(kAllLanes, s.sum, bits);
    r.weighted = __shfl_xor_sync(kAllLanes, s.weighted, bits);
    r.second = __shfl_xor_sync(kAllLanes, s.second, bits);
    r.score = __shfl_xor_sync(kAllLanes, s.score, bits);
    r.chosen_logit = __shfl_xor_sync(kAllLanes, s.chosen_logit, bits);
    r.chosen = __shfl_xor_sync(kAllLanes, s.chosen, bits);
    r.best = __shfl_xor_sync(kAllLanes, s.best, bits);
    return r;
}

__device__ __forceinline__ void write_outputs(const Finish& p, const HeadState& s, int row) {
    const HeadOutputs& o = p.out;
    const bool broken = is_broken(s);
    const float nan = __int_as_float(0x7FC00000), log_sum = logf(s.sum);
    if (o.argmax) o.argmax[row] = broken ? p.first_token : s.best;
    if (o.max_logit) o.max_logit[row] = broken ? nan : s.max;
    if (o.lse) o.lse[row] = broken ? nan : s.max + log_sum;
    if (o.entropy) o.entropy[row] = broken ? nan : log_sum - s.weighted / s.sum;
    if (o.margin) o.margin[row] = broken ? nan : (1.0f - expf(s.second - s.max)) / s.sum;
    if (o.tokens) o.tokens[row] = broken ? p.first_token : o.greedy ? s.best : s.chosen;
    if (o.logit) o.logit[row] = broken ? nan : o.greedy ? s.max : s.chosen_logit;
}

/// A warp per row: lane l merges slices l, l + 32, .., then the lanes are merged.
__global__ void __launch_bounds__(kThreads) merge_slices(Finish p) {
    const int row = static_cast<int>(blockIdx.x) * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows || (p.count && row >= *p.count)) return;
    HeadState s = empty_state();
    for (int i = lane; i < p.slice_count; i += 32)
        s = merged(s, read_state(p.slices + static_cast<int64_t>(row) * p.slice_count + i), p.beta);
    for (int bits = 16; bits > 0; bits /= 2) {
        const HeadState other = from_lane(s, bits);
        s = lane & bits ? merged(other, s, p.beta) : merged(s, other, p.beta);
    }
    if (lane != 0) return;
    write_state(p.states + row, s);
    write_outputs(p, s, row);
}

int64_t round_up(int64_t n, int64_t to) {
    return ceil_div(n, to) * to;
}

}  // namespace

HeadPlan::HeadPlan(const HeadInput& in, int64_t rows, bool keep_logits)
    : C(in.hidden.shape[1]),
      V(in.weight.shape[0]),
      slice(round_up(ceil_div(V, kSlices), kSliceTokens)),
      slices(ceil_div(V, slice)),
      at_once(rows < kRowsAtOnce ? rows : kRowsAtOnce),
      hidden_pitch(round_up(C, 8)),
      logits_pitch(round_up(V, 4)),
      tensor(in.precision == Precision::bf16),
      keeps(keep_logits) {
    if (!keeps) return;
    // Whole tiles of rows, as far as they go.
    const int64_t fit = kKeptLogits / logits_pitch, most = fit >= 128  ? fit / 128 * 128
                                                           : fit >= 16 ? fit / 16 * 16
                                                                       : 16;
    at_once = at_once < most ? at_once : most;
}

size_t HeadPlan::workspace() const {
    return workspace_bytes<float>(at_once * hidden_pitch / (tensor ? 2 : 1)) +
           workspace_bytes<HeadState>(at_once * slices) + workspace_bytes<HeadState>(at_once) +
           (keeps ? workspace_bytes<float>(at_once * logits_pitch) : 0);
}

HeadRoom take_room(const HeadPlan& plan, Workspace& workspace) {
    HeadRoom room;
    room.hidden = workspace.take<float>(plan.at_once * plan.hidden_pitch / (plan.tensor ? 2 : 1));
    room.slices = workspace.take<HeadState>(plan.at_once * plan.slices);
    room.states = workspace.take<HeadState>(plan.at_once);
    room.logits = plan.keeps ? workspace.take<float>(plan.at_once * plan.logits_pitch) : nullptr;
    return room;
}

HeadOutputs outputs_of(const RowStatsOutputs& out, int64_t first) {
    return {.argmax = data_or_null<int32_t>(out.argmax, first),
            .max_logit = data_or_null<float>(out.max_logit, first),
            .lse = data_or_null<float>(out.lse, first),
            .entropy = data_or_null<float>(out.entropy, first),
            .margin = data_or_null<float>(out.margin, first)};
}

Status gather_rows(const View& hidden, const HeadRows& rows, const HeadPlan& plan, void* to, const Stream& stream) {
    const Operand from = operand(hidden, hidden.shape[0]);
    const Gather p{.from = hidden.as<unsigned char>(),
                   .to = to,
                   .ids = rows.ids,
                   .count = rows.device_count,
                   .stride = from.stride,
                   .first = rows.first,
                   .rows = static_cast<int>(rows.count),
                   .columns = static_cast<int>(plan.C),
                   .pitch = static_cast<int>(plan.hidden_pitch),
                   .is_bf16 = from.is_bf16,
                   .vector = from.vector,
                   .to_bf16 = plan.tensor};
    const unsigned blocks = static_cast<unsigned>(ceil_div(rows.count * plan.hidden_pitch / 8, kThreads));
    return launch("head (gather)", stream, {.blocks = dim3(blocks), .threads = kThreads}, gather_pieces, p);
}

HeadPass make_pass(const HeadInput& in, const HeadPlan& plan, const HeadRoom& room, int64_t rows) {
    HeadPass pass;
    pass.hidden = {room.hidden, plan.hidden_pitch, nullptr, static_cast<int>(rows), plan.tensor, true};
    pass.weight = operand(in.weight, plan.V);
    pass.bias = data_or_null<float>(in.bias);
    pass.states = room.slices;
    pass.logits = room.logits;
    pass.logits_pitch = plan.logits_pitch;
    pass.C = static_cast<int>(plan.C);
    pass.V = static_cast<int>(plan.V);
    pass.excluded = static_cast<int>(in.excluded_id);
    pass.slice = static_cast<int>(plan.slice);
    pass.slices = static_cast<int>(plan.slices);
    return pass;
}

Status run_pass(const HeadPass& pass, const HeadPlan& plan, const Stream& stream) {
    return plan.tensor ? head_pass_tensor(pass, stream) : head_pass_fma(pass, stream);
}

Status finish_rows(const HeadPass& pass, const HeadRoom& room, const HeadOutputs& out, const Stream& stream) {
    const Finish p{.slices = room.slices,
                   .states = room.states,
                   .count = pass.count,
                   .rows = pass.hidden.lines,
                   .slice_count = pass.slices,
                   .first_token = pass.excluded == 0 ? 1 : 0,
                   .beta = pass.noise.beta,
                   .out = out};
    const unsigned blocks = static_cast<unsigned>(ceil_div(pass.hidden.lines, kWarps));
    return launch("head (finish)", stream, {.blocks = dim3(blocks), .threads = kThreads}, merge_slices, p);
}

}  // namespace noema::cuda
