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
#include "sequential_inverse.h"

#include <algorithm>
#include <cmath>

#include "common/pace.h"
#include "cuda.h"
#include "posterior.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kPositions = 16;  // of a launch
/// Slices of F: enough for teams all over a large GPU, and no more sums for everybody to add up than needed.
constexpr int64_t kMostSlices = 16, kLeastSlice = 128;

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

/// Products in bf16 read keys and values rounded; those that are given are rounded once, those to come as they are written.
struct Given {
    float *keys, *values;  // [B,S,C]
    int64_t B, S, C, positions;
};
__global__ void __launch_bounds__(kThreads) round_given(Given p) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = p.positions * p.C;
    if (item >= p.B * row) return;
    const int64_t at = item / row * p.S * p.C + item % row;
    p.keys[at] = to_float(to_bf16(p.keys[at]));
    p.values[at] = to_float(to_bf16(p.values[at]));
}

Grid threads_for(int64_t items) {
    return {.blocks = dim3(static_cast<unsigned>(ceil_div(items, kThreads))), .threads = kThreads};
}

// --- plan ------------------------------------------------------------------------------------------------------------

int as_int(int64_t n) {
    return static_cast<int>(n);
}

Operand weight_operand(const Weight& w, Precision precision) {
    if (w.packed && packed_bytes(w.view, precision) > 0) return bf16_operand(w.view, w.packed, w.view.shape[0]);
    return operand(w.view, w.view.shape[0]);
}

const Weight& making_weight(const InverseHead& head) {
    return head.kind == CouplingKind::mixture_cdf ? head.context : head.weight;
}

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

void set_sizes(const SequentialInverse& p, SequentialArguments& a) {
    a.L = as_int(p.layers);
    a.B = as_int(p.u.shape[0]), a.N = as_int(p.u.shape[1]), a.c = as_int(p.u.shape[2]);
    a.C = as_int(p.norm.shape[0]), a.H = as_int(p.H), a.D = a.C / a.H;
    a.F = p.layers ? as_int(p.blocks[0].gate.view.shape[0]) : 0;
    a.S = p.layers ? as_int(p.blocks[0].keys.shape[1]) : 0;
    const int64_t wanted = std::clamp<int64_t>(ceil_div(a.F, kLeastSlice), 1, kMostSlices);
    a.slice = whole_steps(as_int(ceil_div(a.F, wanted)));
    a.slices = a.F ? as_int(ceil_div(a.F, a.slice)) : 0;
    a.made_columns = as_int(making_weight(p.head).view.shape[0]);
    a.position = as_int(p.position);
    a.pitch = as_int(ceil_div(a.C, 4) * 4);
    a.parts = as_int(ceil_div(p.position + a.N, kSequentialPart));
}

void set_arguments(const SequentialInverse& p, SequentialArguments& a) {
    const bool grouped = p.head.kind == CouplingKind::mixture_cdf;
    a.input = weight_operand(p.input, Precision::f32);
    a.start = p.start.as<float>(), a.input_bias = p.input_bias.as<float>(), a.norm = p.norm.as<float>();
    a.head = weight_operand(making_weight(p.head), Precision::f32);
    a.head_bias = (grouped ? p.head.context_bias : p.head.bias).as<float>();
    a.u = p.u.as<double>(), a.h = p.h.as<double>();
    a.fixed = p.fixed.as<uint8_t>(), a.failed = p.failed.as<int32_t>();
    for (int i = 0; i < 2; ++i) a.fixed_stride[i] = p.fixed.stride[i], a.failed_stride[i] = p.failed.stride[i];
    a.grid = p.grid, a.forward = p.forward, a.epsilon = p.epsilon;
    a.rope = RopeFrequencies::of(p.rope_theta, std::max(a.D / 2, 1));
    a.scale = static_cast<float>(1.44269504088896341 / std::sqrt(static_cast<double>(a.D)));
}

/// A coupling's shared memory, from byte 0 on, beside the scratch of products.
size_t coupling_bytes(const SequentialInverse& p) {
    const InverseHead& head = p.head;
    switch (head.kind) {
        case CouplingKind::affine: return 0;
        case CouplingKind::mixture_cdf:
            return sizeof(float) *
                   static_cast<size_t>(whole_steps(as_int((p.u.shape[2] - 1) * head.E)) + whole_steps(as_int(head.M)));
        case CouplingKind::mixture_rosenblatt: break;
    }
    return PosteriorMemory<double>::shared_bytes(head.mean.shape[1]);
}

/// Shared memory for `tile` rows; its size.
size_t set_shared(const SequentialInverse& p, SequentialArguments& a, int tile) {
    const bool tensor = p.precision == Precision::bf16;
    const int body = std::max({a.C, a.D, a.slices ? a.slice : 0}), wide = std::max(a.c, tensor ? a.C : body);
    SequentialShared& s = a.shared;
    s.tile = tile;
    s.state_pitch = factor_pitch<float>(wide);
    s.narrow_pitch = tensor ? factor_pitch<bf16>(body) : 0;
    s.sums_floats = std::max(kSumsBytes / 4, (1 + kSequentialWarps) * a.D + 2 * kSequentialWarps);
    const auto rounded = [](size_t bytes) { return as_int(static_cast<int64_t>((bytes + 127) / 128 * 128)); };
    s.state = 0;
    s.narrow = rounded(std::max(static_cast<size_t>(tile * s.state_pitch) * 4, coupling_bytes(p)));
    s.sums = s.narrow + rounded(static_cast<size_t>(tile * s.narrow_pitch) * 2);
    s.angles = s.sums + rounded(static_cast<size_t>(s.sums_floats) * 4);
    return static_cast<size_t>(s.angles) + static_cast<size_t>(a.D) * 4;
}

size_t most_shared(const DeviceTraits& device) {
    constexpr int kStatic = 2 << 10;  // of couplings
    return static_cast<size_t>(device.shared_bytes_per_block - kStatic);
}

/// What a call needs and how it is dealt out; without addresses of its memory.
SequentialLaunch plan(const SequentialInverse& p, const Stream& stream) {
    const DeviceTraits& device = queue_of(stream).device;
    SequentialLaunch l{};
    SequentialArguments& a = l.arguments;
    l.blocks = device.multiprocessors;
    l.tensor = p.precision == Precision::bf16;
    set_sizes(p, a);
    set_arguments(p, a);
    int tile = std::min(kTileRows, a.B);
    while ((l.shared_bytes = set_shared(p, a, tile)) > most_shared(device) && tile > 1) --tile;
    const int64_t row = 4 * a.C, line = (l.tensor ? 2 : 4) * static_cast<int64_t>(a.C);
    a.attention = teams_of(a.B, a.H, {(a.slices + 1) * row, 4 * a.D * line}, tile, l.blocks);
    a.mlp = teams_of(a.B, a.slices, {(a.H + 1) * row, 3 * a.slice * line}, tile, l.blocks);
    return l;
}

// --- memory ----------------------------------------------------------------------------------------------------------

/// A coupling's own memory, shaped but for what other kernels fill.
struct CouplingMemory {
    SequentialMixtureCdf cdf = {};
    SequentialRosenblatt rosenblatt = {};
};

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
    const InverseHead& head = p.head;
    if (head.kind == CouplingKind::mixture_cdf) take(coupling.cdf.parameters, l.blocks * 3 * head.K);
    if (head.kind != CouplingKind::mixture_rosenblatt) return;
    SequentialRosenblatt& r = coupling.rosenblatt;
    r.length = search_length(head.mean.shape[0]);
    const int64_t n = std::min<int64_t>(l.blocks, B * head.P) * r.length;
    take(r.log_weight, n);
    take(r.weight, n);
    take(r.index, n);
}

size_t workspace(const SequentialInverse& p, const Stream& stream) {
    if (p.u.size() == 0) return 0;
    SequentialLaunch l = plan(p, stream);
    CouplingMemory coupling;
    size_t bytes = 0;
    lay_out(p, l, coupling, [&]<class T>(T*&, int64_t n) { bytes += workspace_bytes<T>(n); });
    const View& mean = p.head.mean;
    return bytes +
           (p.head.kind == CouplingKind::mixture_rosenblatt ? ComponentTable::bytes(mean.shape[0], mean.shape[1]) : 0);
}

// --- run -------------------------------------------------------------------------------------------------------------

SequentialLayer layer_of(const InverseBlock& w, Precision precision) {
    const auto as = [&](const Weight& weight) { return weight_operand(weight, precision); };
    return {as(w.q),
            as(w.k),
            as(w.v),
            as(w.o),
            as(w.gate),
            as(w.up),
            as(w.down),
            w.attention_norm.as<float>(),
            w.mlp_norm.as<float>(),
            w.keys.as<float>(),
            w.values.as<float>()};
}

Status prepare(const SequentialInverse& p, const SequentialArguments& a, int64_t blocks, const Stream& stream) {
    for (int64_t first = 0; first < p.layers; first += LayerBatch::kMost) {
        LayerBatch batch{.to = const_cast<SequentialLayer*>(a.layers) + first,
                         .count = as_int(std::min<int64_t>(LayerBatch::kMost, p.layers - first))};
        for (int i = 0; i < batch.count; ++i) batch.layers[i] = layer_of(p.blocks[first + i], p.precision);
        NOEMA_TRY(
            launch("sequential_inverse (layers)", stream, {.blocks = dim3(1), .threads = 32}, write_layers, batch));
    }
    for (int64_t i = 0; i < p.layers && p.precision == Precision::bf16; ++i) {
        const InverseBlock& w = p.blocks[i];
        const Given given{w.keys.as<float>(), w.values.as<float>(), a.B, a.S, a.C, p.position};
        NOEMA_TRY(
            launch("sequential_inverse (prefix)", stream, threads_for(a.B * p.position * a.C), round_given, given));
    }
    const int64_t counters = SequentialArguments::counters_of(blocks);
    return launch("sequential_inverse (counters)", stream, threads_for(counters), clear_counters, a.counters,
                  as_int(counters));
}

Status launch_positions(const SequentialInverse& p, const SequentialLaunch& l, const CouplingMemory& coupling,
                        const Stream& stream) {
    switch (p.head.kind) {
        case CouplingKind::affine: return launch_sequential(l, stream);
        case CouplingKind::mixture_cdf: return launch_sequential(l, coupling.cdf, stream);
        case CouplingKind::mixture_rosenblatt: break;
    }
    return launch_sequential(l, coupling.rosenblatt, stream);
}

void set_coupling(const InverseHead& head, CouplingMemory& coupling) {
    coupling.rosenblatt.P = as_int(head.P);
    coupling.rosenblatt.apart = head.kind == CouplingKind::mixture_rosenblatt && searches_apart(head.mean.shape[0]);
    if (head.kind != CouplingKind::mixture_cdf) return;
    SequentialMixtureCdf& g = coupling.cdf;
    g.features = operand(head.features, head.features.shape[0]);
    g.out = operand(head.out, head.out.shape[0]);
    g.embed = head.embed.as<float>(), g.embed_bias = head.embed_bias.as<float>();
    g.out_bias = head.out_bias.as<float>();
    g.E = as_int(head.E), g.M = as_int(head.M), g.K = as_int(head.K);
}

Status run(const SequentialInverse& p, const Stream& stream, Workspace memory) {
    if (p.u.size() == 0) return {};
    SequentialLaunch l = plan(p, stream);
    if (l.shared_bytes > most_shared(queue_of(stream).device))
        return Status::error(Code::unsupported,
                             "sequential_inverse: one row of %d channels takes %zu bytes of shared memory",
                             l.arguments.C, l.shared_bytes);
    CouplingMemory coupling;
    lay_out(p, l, coupling, [&]<class T>(T*& part, int64_t n) { part = memory.take<std::remove_const_t<T>>(n); });
    set_coupling(p.head, coupling);
    if (p.head.kind == CouplingKind::mixture_rosenblatt)
        NOEMA_TRY(component_table(p.head.mean, p.head.log_sigma, stream, memory, coupling.rosenblatt.table));
    NOEMA_TRY(prepare(p, l.arguments, l.blocks, stream));
    Pace pace(stream);
    for (int n = 0; n < l.arguments.N; n += kPositions) {
        NOEMA_TRY(pace.wait());
        if (stream.is_cancelled()) return Status::error(Code::aborted, "the inversion was cancelled");
        l.arguments.first = n, l.arguments.last = std::min(l.arguments.N, n + kPositions);
        NOEMA_TRY(launch_positions(p, l, coupling, stream));
        NOEMA_TRY(pace.mark());
    }
    return {};
}

}  // namespace

Op<SequentialInverse> sequential_inverse_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
