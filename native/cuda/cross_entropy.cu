// cross_entropy: scored rows are listed on the device (in masked diffusion half of all rows have no target) and go through
// row_stats' pass; then the gradients (cross_entropy.h). The host does not know how many rows there are: launches are for all,
// blocks beyond the last scored row end at once.
#include "noema/ops/cross_entropy.h"

#include "cross_entropy.h"
#include "cuda.h"
#include "head_state.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256, kListThreads = 1024, kListWarps = kListThreads / 32;

// --- small kernels ---------------------------------------------------------------------------------------------------

struct Scored {
    int32_t* rows;     // [R] which rows have a target
    int32_t* targets;  // [R] theirs
    float* scales;     // [R] their weights
    int32_t* counts;   // [blocks of rows] how many there are in each
};

struct Listing {
    const int32_t* targets;
    const float* row_weight;
    float *loss, *lse;
    Scored scored;
    int R, at_once;
};

/// One block: a running count. Unscored rows get their zeros.
__global__ void __launch_bounds__(kListThreads) list_scored(Listing p) {
    SHARED_ARRAY(int, warp_counts, kListWarps);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int count = 0;
    for (int first = 0; first < p.R; first += kListThreads) {
        const int row = first + static_cast<int>(threadIdx.x), target = row < p.R ? p.targets[row] : -1;
        const unsigned votes = __ballot_sync(kAllLanes, target >= 0);
        if (lane == 0) warp_counts[warp] = __popc(votes);
        __syncthreads();
        int at = count + __popc(votes & ~(0xFFFFFFFFu << lane));
        for (int w = 0; w < kListWarps; ++w) {
            const int n = warp_counts[w];
            if (w < warp) at += n;
            count += n;
        }
        if (target >= 0) {
            p.scored.rows[at] = row;
            p.scored.targets[at] = target;
            p.scored.scales[at] = p.row_weight ? p.row_weight[row] : 1.0f;
        } else if (row < p.R) {
            p.loss[row] = 0;
            if (p.lse) p.lse[row] = 0;
        }
        __syncthreads();
    }
    for (int b = threadIdx.x; b * static_cast<int64_t>(p.at_once) < p.R; b += kListThreads)
        p.scored.counts[b] = min(max(count - b * p.at_once, 0), p.at_once);
}

struct Unscored {
    const int32_t* targets;
    float* d_hidden;
    int64_t stride;
    int C;
};

__global__ void __launch_bounds__(kThreads) clear_unscored(Unscored p) {
    const int64_t row = blockIdx.x;
    if (p.targets[row] >= 0) return;
    for (int c = threadIdx.x; c < p.C; c += kThreads) p.d_hidden[row * p.stride + c] = 0;
}

struct Losses {
    const HeadState* states;
    const float* target_logits;
    const int32_t *rows, *count;
    float *loss, *lse;
};

/// log(sum) + (max - target) instead of lse - target: large logits do not eat the digits of a small loss.
__global__ void __launch_bounds__(kThreads) write_losses(Losses p) {
    const int row = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
    if (row >= *p.count) return;
    const HeadState s = read_state(p.states + row);
    const float nan = __int_as_float(0x7FC00000), log_sum = logf(s.sum);
    p.loss[p.rows[row]] = is_broken(s) ? nan : log_sum + (s.max - p.target_logits[row]);
    if (p.lse) p.lse[p.rows[row]] = is_broken(s) ? nan : s.max + log_sum;
}

struct BiasGradient {
    const float* column_sums;
    float* d_bias;
    const int32_t* count;
    int64_t pitch;
    int tokens;
};

/// Tiles of rows in their order.
__global__ void __launch_bounds__(kThreads) add_bias_gradient(BiasGradient p) {
    const int v = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
    if (v >= p.tokens) return;
    float sum = 0;
    for (int64_t row = 0; row < *p.count; row += kProbabilityTile)
        sum += p.column_sums[row / kProbabilityTile * p.pitch + v];
    p.d_bias[v] += sum;
}

unsigned blocks_for(int64_t n) {
    return static_cast<unsigned>(ceil_div(n, kThreads));
}

// --- plan ------------------------------------------------------------------------------------------------------------

struct Plan {
    explicit Plan(const CrossEntropy& p) : head(input_of(p), p.hidden.shape[0], false) {
        const int64_t bytes = head.tensor ? 2 : 4, rows = head.at_once > 0 ? head.at_once : 1;
        const int64_t fit = kProbabilityBytes / (bytes * rows) / kProbabilityTile * kProbabilityTile;
        const int64_t all = ceil_div(head.V, kProbabilityTile) * kProbabilityTile;
        tokens = fit < kProbabilityTokens ? fit : kProbabilityTokens;
        tokens = tokens < kProbabilityTile ? kProbabilityTile : tokens < all ? tokens : all;
        const Operand weight = operand(p.weight.view, head.V);
        gradients = p.d_hidden || p.d_weight || p.d_bias;
        converts = gradients && head.tensor && !(weight.is_bf16 && weight.vector);
        bias = static_cast<bool>(p.d_bias);
    }
    // In floats.
    int64_t probabilities() const { return gradients ? head.at_once * tokens / (head.tensor ? 2 : 1) : 0; }
    int64_t column_sums() const { return bias ? ceil_div(head.at_once, kProbabilityTile) * tokens : 0; }
    int64_t converted() const { return converts ? tokens * head.hidden_pitch / 2 : 0; }

    HeadPlan head;
    int64_t tokens;  // of a chunk, a multiple of kProbabilityTile
    bool gradients, converts, bias;
};

struct Room {
    HeadRoom head;
    Scored scored;
    float* target_logits;  // [at_once]
    void* probabilities;   // [at_once, tokens]
    float* column_sums;    // [tiles of rows, tokens]
    void* weight;          // [tokens, hidden_pitch] bf16
};

size_t workspace_size(const CrossEntropy& p, const Stream&) {
    const Plan plan(p);
    const int64_t R = p.hidden.shape[0];
    return plan.head.workspace() + 3 * workspace_bytes<float>(R) + workspace_bytes<int32_t>(ceil_div(R, kRowsAtOnce)) +
           workspace_bytes<float>(plan.head.at_once) + workspace_bytes<float>(plan.probabilities()) +
           workspace_bytes<float>(plan.column_sums()) + workspace_bytes<float>(plan.converted());
}

Room take_room(const Plan& plan, int64_t R, Workspace& w) {
    Room room;
    room.head = take_room(plan.head, w);
    room.scored.rows = w.take<int32_t>(R);
    room.scored.targets = w.take<int32_t>(R);
    room.scored.scales = w.take<float>(R);
    room.scored.counts = w.take<int32_t>(ceil_div(R, kRowsAtOnce));
    room.target_logits = w.take<float>(plan.head.at_once);
    room.probabilities = w.take<float>(plan.probabilities());
    room.column_sums = w.take<float>(plan.column_sums());
    room.weight = w.take<float>(plan.converted());
    return room;
}

// --- the call --------------------------------------------------------------------------------------------------------

/// Rows that are worked on together.
struct Block {
    const int32_t *rows, *targets, *count;
    const float* scales;
    int64_t size;
};

class Call {
 public:
    Call(const CrossEntropy& parameters, const Stream& stream, Workspace workspace)
        : p_(parameters), stream_(stream), plan_(p_), room_(take_room(plan_, p_.hidden.shape[0], workspace)) {}

    Status run() {
        const int64_t R = p_.hidden.shape[0], at_once = plan_.head.at_once;
        if (R == 0) return {};
        NOEMA_TRY(start());
        for (int64_t first = 0; first < R; first += at_once) {
            const Scored& s = room_.scored;
            const Block block{s.rows + first, s.targets + first, s.counts + first / at_once, s.scales + first,
                              R - first < at_once ? R - first : at_once};
            HeadPass pass;
            NOEMA_TRY(forward(block, pass));
            if (plan_.gradients) NOEMA_TRY(backward(block, pass));
        }
        return {};
    }

 private:
    Status start() {
        const int R = static_cast<int>(p_.hidden.shape[0]);
        const Listing listing{.targets = p_.targets.as<int32_t>(),
                              .row_weight = data_or_null<float>(p_.row_weight),
                              .loss = p_.loss.as<float>(),
                              .lse = data_or_null<float>(p_.lse),
                              .scored = room_.scored,
                              .R = R,
                              .at_once = static_cast<int>(plan_.head.at_once)};
        NOEMA_TRY(launch("cross_entropy (scored rows)", stream_, {.blocks = dim3(1), .threads = kListThreads},
                         list_scored, listing));
        if (!p_.d_hidden) return {};
        const Unscored unscored{p_.targets.as<int32_t>(), p_.d_hidden.as<float>(), p_.d_hidden.stride[0],
                                static_cast<int>(plan_.head.C)};
        return launch("cross_entropy (unscored rows)", stream_,
                      {.blocks = dim3(static_cast<unsigned>(R)), .threads = kThreads}, clear_unscored, unscored);
    }

    Status forward(const Block& block, HeadPass& pass) {
        const HeadRows rows{.ids = block.rows, .count = block.size, .device_count = block.count};
        NOEMA_TRY(gather_rows(p_.hidden, rows, plan_.head, room_.head.hidden, stream_));
        pass = make_pass(input_of(p_), plan_.head, room_.head, block.size);
        pass.count = block.count;
        pass.targets = block.targets;
        pass.target_logits = room_.target_logits;
        NOEMA_TRY(run_pass(pass, plan_.head, stream_));
        NOEMA_TRY(finish_rows(pass, room_.head, {}, stream_));
        const Losses losses{.states = room_.head.states,
                            .target_logits = room_.target_logits,
                            .rows = block.rows,
                            .count = block.count,
                            .loss = p_.loss.as<float>(),
                            .lse = data_or_null<float>(p_.lse)};
        return launch("cross_entropy (losses)", stream_, {.blocks = dim3(blocks_for(block.size)), .threads = kThreads},
                      write_losses, losses);
    }

    Status backward(const Block& block, const HeadPass& pass) {
        for (int64_t first = 0; first < plan_.head.V; first += plan_.tokens) {
            Operand weight;
            NOEMA_TRY(weight_chunk(first, &weight));
            Operand p{room_.probabilities,          plan_.tokens,      nullptr,
                      static_cast<int>(block.size), plan_.head.tensor, true};
            NOEMA_TRY(probabilities(block, pass, weight, first));
            if (p_.d_hidden) NOEMA_TRY(input_gradient(block, p, weight, first == 0));
            p.lines = weight.lines;
            if (p_.d_weight) NOEMA_TRY(weight_gradient(block, p, pass.hidden, first));
        }
        return {};
    }

    Status weight_chunk(int64_t first, Operand* out) {
        const int64_t left = plan_.head.V - first, tokens = left < plan_.tokens ? left : plan_.tokens;
        *out = operand(p_.weight.view, tokens);
        if (plan_.converts) {
            *out = {room_.weight, plan_.head.hidden_pitch, nullptr, static_cast<int>(tokens), true, true};
            return gather_rows(p_.weight.view, {.first = first, .count = tokens}, plan_.head, room_.weight, stream_);
        }
        out->data = static_cast<const unsigned char*>(out->data) + first * out->stride * (out->is_bf16 ? 2 : 4);
        return {};
    }

    Status probabilities(const Block& block, const HeadPass& pass, const Operand& weight, int64_t first) {
        const Probabilities p{.hidden = pass.hidden,
                              .weight = weight,
                              .bias = data_or_null<float>(p_.bias, first),
                              .states = room_.head.states,
                              .targets = block.targets,
                              .count = block.count,
                              .scales = block.scales,
                              .p = room_.probabilities,
                              .column_sums = plan_.bias ? room_.column_sums : nullptr,
                              .pitch = plan_.tokens,
                              .C = pass.C,
                              .first = static_cast<int>(first),
                              .excluded = pass.excluded};
        NOEMA_TRY(form_probabilities(p, stream_));
        if (!p_.d_bias) return {};
        const BiasGradient bias{room_.column_sums, p_.d_bias.as<float>() + first, block.count, plan_.tokens,
                                weight.lines};
        return launch("cross_entropy (d_bias)", stream_,
                      {.blocks = dim3(blocks_for(weight.lines)), .threads = kThreads}, add_bias_gradient, bias);
    }

    static bool in_pairs(const View& v) { return reinterpret_cast<uintptr_t>(v.data) % 8 == 0 && v.stride[0] % 2 == 0; }

    Status input_gradient(const Block& block, const Operand& p, Operand weight, bool from_zero) {
        const int tokens = weight.lines;
        weight.lines = static_cast<int>(plan_.head.C);
        return add_input_gradient({.a = p,
                                   .b = weight,
                                   .out = p_.d_hidden.as<float>(),
                                   .rows = block.rows,
                                   .count = block.count,
                                   .stride = p_.d_hidden.stride[0],
                                   .K = tokens,
                                   .from_zero = from_zero,
                                   .pairs = in_pairs(p_.d_hidden)},
                                  stream_);
    }

    Status weight_gradient(const Block& block, const Operand& p, Operand hidden, int64_t first) {
        hidden.lines = static_cast<int>(plan_.head.C);
        return add_weight_gradient({.a = p,
                                    .b = hidden,
                                    .out = p_.d_weight.at<float>(first),
                                    .rows = nullptr,
                                    .count = block.count,
                                    .stride = p_.d_weight.stride[0],
                                    .K = 0,
                                    .from_zero = false,
                                    .pairs = in_pairs(p_.d_weight)},
                                   stream_);
    }

    const CrossEntropy& p_;
    const Stream& stream_;
    Plan plan_;
    Room room_;
};

Status run(const CrossEntropy& p, const Stream& stream, Workspace workspace) {
    return Call(p, stream, workspace).run();
}

}  // namespace

Op<CrossEntropy> cross_entropy_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cuda
