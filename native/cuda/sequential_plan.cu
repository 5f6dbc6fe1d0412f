#include "sequential_plan.h"

#include <algorithm>
#include <cmath>

#include "cuda.h"
#include "posterior.h"

namespace noema::cuda {

namespace {

constexpr int kThreads = 256;
/// Slices of F: enough for teams all over a large GPU, and no more sums for everybody to add up than needed.
constexpr int64_t kMostSlices = 16, kLeastSlice = 128;

struct Given {
    float *keys, *values;  // [B,S,C]
    int64_t B, S, C, positions;
};
__global__ void __launch_bounds__(kThreads) round_rows(Given p) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = p.positions * p.C;
    if (item >= p.B * row) return;
    const int64_t at = item / row * p.S * p.C + item % row;
    p.keys[at] = to_float(to_bf16(p.keys[at]));
    p.values[at] = to_float(to_bf16(p.values[at]));
}

Operand weight_operand(const Weight& w, Precision precision) {
    if (w.packed && packed_bytes(w.view, precision) > 0) return bf16_operand(w.view, w.packed, w.view.shape[0]);
    return operand(w.view, w.view.shape[0]);
}

const Weight& making_weight(const InverseHead& head) {
    return head.kind == CouplingKind::mixture_cdf ? head.context : head.weight;
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

}  // namespace

SequentialArguments arguments_of(const SequentialInverse& p) {
    SequentialArguments a{};
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
    const bool grouped = p.head.kind == CouplingKind::mixture_cdf;
    a.input = weight_operand(p.input, Precision::f32);
    a.start = p.start.as<float>(), a.input_bias = p.input_bias.as<float>(), a.norm = p.norm.as<float>();
    a.head = weight_operand(making_weight(p.head), Precision::f32);
    a.head_bias = (grouped ? p.head.context_bias : p.head.bias).as<float>();
    a.u = p.u.as<double>(), a.h = p.h.as<double>();
    a.fixed = p.fixed.as<uint8_t>(), a.failed = p.failed.as<int32_t>();
    for (int i = 0; i < 2; ++i) a.fixed_stride[i] = p.fixed.stride[i], a.failed_stride[i] = p.failed.stride[i];
    a.grid = p.grid, a.epsilon = p.epsilon;
    a.rope = RopeFrequencies::of(p.rope_theta, std::max(a.D / 2, 1));
    a.scale = static_cast<float>(1.44269504088896341 / std::sqrt(static_cast<double>(a.D)));
    return a;
}

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

size_t fit_shared(const SequentialInverse& p, SequentialArguments& a, int64_t rows, const Stream& stream) {
    const DeviceTraits& device = queue_of(stream).device;
    int tile = as_int(std::min<int64_t>(kTileRows, rows));
    size_t bytes = set_shared(p, a, tile);
    while (bytes > most_shared(device) && tile > 1) bytes = set_shared(p, a, --tile);
    return bytes;
}

Status check_shared(const char* op, const SequentialArguments& a, size_t bytes, const Stream& stream) {
    if (bytes <= most_shared(queue_of(stream).device)) return {};
    return Status::error(Code::unsupported, "%s: one row of %d channels takes %zu bytes of shared memory", op, a.C,
                         bytes);
}

size_t CouplingMemory::table_bytes(const InverseHead& head) {
    return head.kind == CouplingKind::mixture_rosenblatt ? ComponentTable::bytes(head.mean.shape[0], head.mean.shape[1])
                                                         : 0;
}

Status CouplingMemory::fill(const InverseHead& head, const Stream& stream, Workspace& memory) {
    if (head.kind == CouplingKind::mixture_rosenblatt) {
        rosenblatt.P = as_int(head.P);
        rosenblatt.apart = searches_apart(head.mean.shape[0]);
        return component_table(head.mean, head.log_sigma, stream, memory, rosenblatt.table);
    }
    if (head.kind != CouplingKind::mixture_cdf) return {};
    cdf.features = operand(head.features, head.features.shape[0]);
    cdf.out = operand(head.out, head.out.shape[0]);
    cdf.embed = head.embed.as<float>(), cdf.embed_bias = head.embed_bias.as<float>();
    cdf.out_bias = head.out_bias.as<float>();
    cdf.E = as_int(head.E), cdf.M = as_int(head.M), cdf.K = as_int(head.K);
    return {};
}

Status round_given(const char* op, const SequentialInverse& p, const SequentialArguments& a, const Stream& stream) {
    const int64_t items = a.B * p.position * a.C;
    for (int64_t i = 0; i < p.layers && p.precision == Precision::bf16; ++i) {
        const InverseBlock& w = p.blocks[i];
        const Given given{w.keys.as<float>(), w.values.as<float>(), a.B, a.S, a.C, p.position};
        const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(items, kThreads))), .threads = kThreads};
        NOEMA_TRY(launch(op, stream, grid, round_rows, given));
    }
    return {};
}

}  // namespace noema::cuda
