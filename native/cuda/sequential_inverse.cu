// sequential_inverse: one kernel that stays on the device for many positions. Its blocks, one for each multiprocessor, wait for each other
// instead of for launches:
//
//   lift || [ q k v | attention | o || gate up | down || ] ... head || coupling ||        || all blocks, | the blocks of a team
//
// A team of neighbouring blocks owns a head of a slice of the sequences: its lines of q, k and v, its cache, and its columns of o. What
// the heads add to the residual stream goes to memory head by head, and whoever needs the stream next adds it up; likewise a team owns
// a slice of F, its lines of gate and up and its columns of down. So two exchanges of all blocks per layer are enough, and the
// others wait for few blocks. Sums are cut by shape (heads, slices of F, chunks of K, parts of keys) and added in order: who computes
// what, and with how many others, does not show.
//
// What a block reads next it asks for after it has arrived and before the others have: its first weights into registers, the rest into the
// second level cache. Norms are computed by every block that needs them.
//
// Positions are cut into launches, of which at most two are under way: between them the host looks whether it was cancelled. A flag that the
// kernel polls would need somebody to carry the owner's flag to page-locked memory while the host waits; all that lives from one
// position to the next lies in memory anyway, and a launch per 16 positions costs a hundredth of them.
#include <algorithm>

#include "common/pace.h"
#include "cuda.h"
#include "sequential_plan.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPositions = 16;  // of a launch

// --- small kernels ---------------------------------------------------------------------------------------------------

struct LayerBatch {
    static constexpr int kMost = 12;  // arguments of a kernel are at most 4 KB

    SequentialLayer layers[kMost];
    SequentialLayer* to;
    int count;
};
__global__ void __launch_bounds__(32) write_layers(const __grid_constant__ LayerBatch p) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < p.count) p.to[i] = p.layers[i];
}

__global__ void __launch_bounds__(kThreads) clear_counters(unsigned int* counters, int count) {
    const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
    if (i < count) counters[i] = 0;
}

Grid threads_for(int64_t items) {
    return {.blocks = dim3(static_cast<unsigned>(ceil_div(items, kThreads))), .threads = kThreads};
}

// --- plan ------------------------------------------------------------------------------------------------------------

/// Bytes that a unit reads: for each of its sequences the sums that are to be added up, which every block of a team does, and weights, of
/// which each block of the team has a part.
struct Reading {
    int64_t per_sequence, weights;
};
/// Teams for `in_slice` units per slice of the sequences, at most `tile` of them, cut so that no block reads more than need be.
Teams teams_of(int64_t B, int64_t in_slice, const Reading& reading, int64_t tile, int64_t blocks) {
    Teams best{0, 0, 1, as_int(B)};
    int64_t least = INT64_MAX;
    for (int64_t slices = ceil_div(B, tile); slices <= B && in_slice > 0; ++slices) {
        const int64_t rows = ceil_div(B, slices), units = ceil_div(B, rows) * in_slice, count = std::min(units, blocks),
                      size = blocks / count;
        const int64_t cost = ceil_div(units, count) * (rows * reading.per_sequence + reading.weights / size);
        if (cost >= least) continue;
        least = cost;
        best = {as_int(units), as_int(count), as_int(size), as_int(rows)};
    }
    return best;
}

/// What a call needs and how it is dealt out; without addresses of its memory.
SequentialLaunch plan(const SequentialInverse& p, const Stream& stream) {
    const DeviceTraits& device = queue_of(stream).device;
    SequentialLaunch l{
        .arguments = arguments_of(p), .blocks = device.multiprocessors, .tensor = p.precision == Precision::bf16};
    SequentialArguments& a = l.arguments;
    l.shared_bytes = fit_shared(p, a, a.B, stream);
    const int tile = a.shared.tile;
    const int64_t row = 4 * a.C, line = (l.tensor ? 2 : 4) * static_cast<int64_t>(a.C);
    a.attention = teams_of(a.B, a.H, {(a.slices + 1) * row, 4 * a.D * line}, tile, l.blocks);
    a.mlp = teams_of(a.B, a.slices, {(a.H + 1) * row, 3 * a.slice * line}, tile, l.blocks);
    return l;
}

// --- memory ----------------------------------------------------------------------------------------------------------

/// take(pointer, count) for all that a call works with.
template <class Take>
void lay_out(const SequentialInverse& p, SequentialLaunch& l, CouplingMemory& coupling, const Take& take) {
    SequentialArguments& a = l.arguments;
    const int64_t B = a.B, rows = B * a.pitch;
    take(a.layers, a.L);
    take(a.counters, SequentialArguments::counters_of(l.blocks));
    take(a.x[0], rows);
    take(a.x[1], rows);
    take(a.head_sums, a.L ? a.H * rows : 0);
    take(a.slice_sums, a.L ? a.slices * rows : 0);
    take(a.qkv, a.L ? 3 * B * a.C : 0);
    take(a.attended, a.L ? B * a.H * a.parts * (a.D + 2) : 0);
    take(a.inner, B * a.slices * a.slice);
    take(a.made, B * a.made_columns);
    coupling.lay_out(p.head, l.blocks, B, take);
}

size_t workspace(const SequentialInverse& p, const Stream& stream) {
    if (p.u.size() == 0) return 0;
    SequentialLaunch l = plan(p, stream);
    CouplingMemory coupling;
    size_t bytes = 0;
    lay_out(p, l, coupling, [&]<class T>(T*&, int64_t n) { bytes += workspace_bytes<T>(n); });
    return bytes + CouplingMemory::table_bytes(p.head);
}

// --- run -------------------------------------------------------------------------------------------------------------

Status prepare(const SequentialInverse& p, const SequentialArguments& a, int64_t blocks, const Stream& stream) {
    for (int64_t first = 0; first < p.layers; first += LayerBatch::kMost) {
        LayerBatch batch{.to = const_cast<SequentialLayer*>(a.layers) + first,
                         .count = as_int(std::min<int64_t>(LayerBatch::kMost, p.layers - first))};
        for (int i = 0; i < batch.count; ++i) batch.layers[i] = layer_of(p.blocks[first + i], p.precision);
        NOEMA_TRY(
            launch("sequential_inverse (layers)", stream, {.blocks = dim3(1), .threads = 32}, write_layers, batch));
    }
    NOEMA_TRY(round_given("sequential_inverse (prefix)", p, a, stream));
    const int64_t counters = SequentialArguments::counters_of(blocks);
    return launch("sequential_inverse (counters)", stream, threads_for(counters), clear_counters, a.counters,
                  as_int(counters));
}

Status run(const SequentialInverse& p, const Stream& stream, Workspace memory) {
    if (p.u.size() == 0) return {};
    SequentialLaunch l = plan(p, stream);
    NOEMA_TRY(check_shared("sequential_inverse", l.arguments, l.shared_bytes, stream));
    CouplingMemory coupling;
    lay_out(p, l, coupling, [&]<class T>(T*& part, int64_t n) { part = memory.take<std::remove_const_t<T>>(n); });
    NOEMA_TRY(coupling.fill(p.head, stream, memory));
    NOEMA_TRY(prepare(p, l.arguments, l.blocks, stream));
    Pace pace(stream);
    for (int n = 0; n < l.arguments.N; n += kPositions) {
        NOEMA_TRY(pace.wait());
        if (stream.is_cancelled()) return Status::error(Code::aborted, "the inversion was cancelled");
        l.arguments.first = n, l.arguments.last = std::min(l.arguments.N, n + kPositions);
        NOEMA_TRY(coupling.with(p.head.kind, [&](const auto& own) { return launch_sequential(l, own, stream); }));
        NOEMA_TRY(pace.mark());
    }
    return {};
}

}  // namespace

Op<SequentialInverse> sequential_inverse_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
