// A team of threads goes through all positions in one parallel_for: every worker runs the same program and has its share of every step,
// the panels of a product, the heads of an attention, the sequences of a search; between steps they meet at a barrier. Norms and the
// packing of rows, which are small beside the weights, are done by every worker for itself: that saves a barrier each.
//
//   lift | q k v | attention | o | gate up | down | ... | head | search
//
// A step's pieces are cut by shape, and each is computed by one worker in one order.
#include "cpu/sequential_inverse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "cpu/attention_kernels.h"
#include "cpu/cpu.h"

namespace noema::cpu {

InverseSizes::InverseSizes(const SequentialInverse& p)
    : B(p.u.shape[0]),
      N(p.u.shape[1]),
      c(p.u.shape[2]),
      C(p.norm.shape[0]),
      H(p.H),
      D(C / H),
      F(p.layers ? p.blocks[0].gate.view.shape[0] : 0),
      made(making_product(p.head).weight.view.shape[0]),
      units(p.head.kind == CouplingKind::mixture_rosenblatt ? p.head.P : 1) {}

namespace {

/// Panels whose sums are made together. While some are multiplied, kernels of several rows fetch the next: only the first come late.
constexpr int64_t kGroupPanels = 32, kGroupColumns = kGroupPanels * kPanelColumns;
/// What is asked for ahead of a step: of as many panels as a single row streams at a time.
constexpr int64_t kStreams = 8, kFirstLines = 8;

/// Memory of all workers.
struct Shared {
    SpinBarrier* barrier;
    int* stop;
    float* angles;         // [N,D] cosines, sines of every position
    float* x;              // [B,C] the residual stream
    float* qkv;            // [B,3C]
    float* attention;      // [B,C]
    float* gate;           // [B,F]
    float* up;             // [B,F], then silu(gate) up
    float* made;           // [B,made]
    ComponentTable table;  // mixture_rosenblatt's

    template <class Take>
    void lay_out(const InverseSizes& s, const Take& take) {
        take(barrier, 1);
        take(stop, 1);
        take(angles, s.N * s.D);
        take(x, s.B * s.C);
        take(qkv, s.B * 3 * s.C);
        take(attention, s.B * s.C);
        take(gate, s.B * s.F);
        take(up, s.B * s.F);
        take(made, s.B * s.made);
    }
};

/// The rows that a worker multiplies, whichever product of the loop it is.
size_t bytes_of_rows(const SequentialInverse& p, const InverseSizes& s) {
    const auto bytes = [&](int64_t K, Precision precision) {
        const BlockKernel kernel = block_kernel(precision);
        return divide_up(panel_steps(K, kernel.panels), kBlockSteps) * s.B * row_pitch(kernel.rows);
    };
    return static_cast<size_t>(
        std::max(bytes(std::max(s.C, s.c), Precision::f32), bytes(std::max(s.C, s.F), p.precision)));
}

struct Scratch {
    std::byte* rows;  // packed
    float* before;    // [B,c] the position before, as the body reads it
    float* normed;    // [B,C]
    float* sums;      // [B,kGroupColumns]
    float* query;     // [D]
    float* weights;   // of the positions that a query sees
    CouplingScratch coupling;

    template <class Take>
    void lay_out(const SequentialInverse& p, const Take& take) {
        const InverseSizes s(p);
        take(rows, static_cast<int64_t>(bytes_of_rows(p, s)));
        take(before, s.B * s.c);
        take(normed, s.B * s.C);
        take(sums, s.B * kGroupColumns);
        take(query, s.D);
        take(weights, room_for_weights(p.position + s.N));
        coupling.lay_out(p, take);
    }
};

class Worker {
 public:
    Worker(const SequentialInverse& p, const Shared& shared, const Scratch& scratch, int worker, int team)
        : p_(p), s_(p), all_(shared), own_(scratch), worker_(worker), team_(team) {}

    void run(const Stream& stream) {
        round_given();
        for (int64_t n = 0; n < s_.N; ++n) {
            lift(n);
            for (int64_t i = 0; i < p_.layers; ++i) block(i, n);
            make();
            uncouple_position({p_, all_.made, &all_.table, n, share(s_.B * s_.units)}, own_.coupling);
            // One worker asks, all are told.
            if (worker_ == 0 && n + 1 < s_.N) *all_.stop = stream.is_cancelled();
            meet();
            if (*all_.stop) return;
        }
    }

 private:
    void meet() const { all_.barrier->wait(all_.barrier->arrive(team_)); }
    /// Meanwhile asks for the first lines of what this worker reads next, panels of `next` from `first` on: until those are there the
    /// hardware does not know what to fetch.
    void meet_before(const Weight& next, Precision precision, int64_t first) const {
        const uint32_t arrival = all_.barrier->arrive(team_);
        const int64_t panel_bytes = panel_steps(next.view.shape[1], panel_packing(precision)) * kStepBytes;
        const int64_t panels = std::min(kStreams, divide_up(next.view.shape[0], kPanelColumns) - first);
        const std::byte* b = static_cast<const std::byte*>(next.packed) + first * panel_bytes;
        for (int64_t line = 0; line < kFirstLines; ++line)
            for (int64_t i = 0; i < panels; ++i) __builtin_prefetch(b + i * panel_bytes + line * kStepBytes);
        all_.barrier->wait(arrival);
    }
    void meet_before(const Weight& next, Precision precision) const {
        meet_before(next, precision, share(divide_up(next.view.shape[0], kPanelColumns)).first);
    }
    Share share(int64_t count) const { return {count, worker_, team_}; }
    View rows(float* data, int64_t columns) const { return view(data, DType::f32, s_.B, columns); }
    View qkv(int64_t part) const {
        View v = rows(all_.qkv + part * s_.C, s_.C);
        v.stride[0] = 3 * s_.C;
        return v;
    }

    /// Products in bf16 read keys and values rounded; those that are given are rounded once, those to come as they are written.
    void round_given() const {
        if (p_.precision != Precision::bf16) return;
        const Share some = share(s_.B * p_.position);
        for (int64_t i = 0; i < p_.layers; ++i)
            for (int64_t r = some.first; r < some.last; ++r)
                for (const View& cache : {p_.blocks[i].keys, p_.blocks[i].values})
                    round_row(cache.at<float>(r / p_.position, r % p_.position), s_.C);
    }

    void lift(int64_t n) {
        for (int64_t b = 0; b < s_.B && n > 0; ++b)
            std::copy_n(p_.h.at<const double>(b, n - 1), s_.c, own_.before + b * s_.c);
        pack(n ? own_.before : p_.start.as<float>(), n ? s_.c : 0, s_.c, Precision::f32);
        multiply(p_.input, {.c = rows(all_.x, s_.C), .bias = p_.input_bias});
        for (int64_t b = 0; b < s_.B && worker_ == 0; ++b) *p_.failed.at<int32_t>(b, n) = 0;
        meet_before_block(0);
    }

    void meet_before_block(int64_t layer) const {
        if (layer == p_.layers) return meet_before(making_product(p_.head).weight, Precision::f32);
        const InverseBlock& w = p_.blocks[layer];
        const int64_t each = divide_up(s_.C, kPanelColumns), first = share(3 * each).first;
        const Weight* weights[] = {&w.q, &w.k, &w.v};
        meet_before(*weights[std::min<int64_t>(first / each, 2)], p_.precision, first % each);
    }

    void block(int64_t layer, int64_t n) {
        const InverseBlock& w = p_.blocks[layer];
        norm(w.attention_norm, p_.precision);
        multiply_all({&w.q, &w.k, &w.v}, {qkv(0), qkv(1), qkv(2)});
        meet();
        attend(w, n);
        meet_before(w.o, p_.precision);
        const View x = rows(all_.x, s_.C), gate = rows(all_.gate, s_.F), up = rows(all_.up, s_.F);
        pack(all_.attention, s_.C, s_.C, p_.precision);
        multiply(w.o, {.c = x, .residual = x});
        meet_before(w.gate, p_.precision);
        norm(w.mlp_norm, p_.precision);
        const Share panels = share(divide_up(s_.F, kPanelColumns));
        for (int64_t i = panels.first; i < panels.last; i += kGroupPanels) {
            const int64_t count = std::min(kGroupPanels, panels.last - i);
            multiply_panels(w.gate, {.c = gate}, i, count);
            multiply_panels(w.up, {.c = up, .gate = gate}, i, count);
        }
        meet_before(w.down, p_.precision);
        pack(all_.up, s_.F, s_.F, p_.precision);
        multiply(w.down, {.c = x, .residual = x});
        meet_before_block(layer + 1);
    }

    void attend(const InverseBlock& w, int64_t n) const {
        const int64_t D = s_.D, stride = w.keys.stride[1];
        const Share heads = share(s_.B * s_.H);
        for (int64_t i = heads.first; i < heads.last; ++i) {
            const int64_t b = i / s_.H, h = i % s_.H;
            const float* q = all_.qkv + b * 3 * s_.C + h * D;
            attend_newest({.q = q,
                           .k = q + s_.C,
                           .v = q + 2 * s_.C,
                           .angles = all_.angles + n * D,
                           .keys = w.keys.at<float>(b, 0, h),
                           .values = w.values.at<float>(b, 0, h),
                           .stride = stride,
                           .position = p_.position + n,
                           .D = D,
                           .scale = 1.0f / std::sqrt(static_cast<float>(D)),
                           .rounding = p_.precision == Precision::bf16,
                           .query = own_.query,
                           .weights = own_.weights,
                           .out = all_.attention + b * s_.C + h * D});
        }
    }

    /// What the head makes of a position.
    void make() {
        const MakingProduct head = making_product(p_.head);
        norm(p_.norm, Precision::f32);
        multiply(head.weight, {.c = rows(all_.made, s_.made), .bias = head.bias});
        meet();
    }

    /// Packs rms_norm(x).
    void norm(const View& weight, Precision precision) {
        const RmsNorm norm{
            .x = rows(all_.x, s_.C), .weight = weight, .y = rows(own_.normed, s_.C), .epsilon = p_.epsilon};
        rms_norm_entry().run(norm, Stream(), {});
        pack(own_.normed, s_.C, s_.C, precision);
    }

    /// The rows of the products that follow.
    void pack(const float* from, int64_t pitch, int64_t K, Precision precision) {
        kernel_ = block_kernel(precision);
        steps_ = panel_steps(K, kernel_.panels);
        const Factor a{from, DType::f32, pitch, true, s_.B, K};
        for (int64_t s = 0; s < steps_; s += kBlockSteps)
            pack_rows(a, kernel_.rows, {0, s_.B, s, std::min(kBlockSteps, steps_ - s)}, rows_at(s));
    }
    std::byte* rows_at(int64_t step) const { return own_.rows + step / kBlockSteps * s_.B * row_pitch(kernel_.rows); }

    /// This worker's share of a product's columns; `to` is its epilogue.
    void multiply(const Weight& weight, const Matmul& to) const {
        const Share panels = share(divide_up(weight.view.shape[0], kPanelColumns));
        multiply_panels(weight, to, panels.first, panels.size());
    }

    /// Three products of equal size, as if they were one: a share's panels lie next to each other in as few of them as can be.
    void multiply_all(const Weight* const (&weights)[3], const View (&to)[3]) const {
        const int64_t each = divide_up(s_.C, kPanelColumns);
        const Share panels = share(3 * each);
        for (int64_t i = panels.first; i < panels.last;) {
            const int64_t part = i / each, end = std::min(panels.last, (part + 1) * each);
            multiply_panels(*weights[part], {.c = to[part]}, i - part * each, end - i);
            i = end;
        }
    }

    void multiply_panels(const Weight& weight, const Matmul& to, int64_t first, int64_t panels) const {
        const int64_t panel_bytes = steps_ * kStepBytes, N = weight.view.shape[0];
        for (int64_t i = first; i < first + panels; i += kGroupPanels) {
            const int64_t count = std::min(kGroupPanels, first + panels - i), column = i * kPanelColumns;
            const std::byte* b = static_cast<const std::byte*>(weight.packed) + i * panel_bytes;
            for (int64_t s = 0; s < steps_; s += kBlockSteps)
                kernel_.multiply({rows_at(s), b + s * kStepBytes, panel_bytes, own_.sums, kGroupColumns, s_.B, count,
                                  std::min(kBlockSteps, steps_ - s), s == 0, true});
            finish_block(to, {own_.sums, kGroupColumns, 0, s_.B, column, std::min(N - column, count * kPanelColumns)});
        }
    }

    const SequentialInverse& p_;
    const InverseSizes s_;
    const Shared& all_;
    const Scratch own_;
    const int worker_, team_;
    BlockKernel kernel_{};  // of the rows that were packed last
    int64_t steps_ = 0;
};

int team_of(const Stream& stream) {
    return stream.dispatch ? stream.threads : 1;
}

/// rope turns a row of ones and zeros into cosines and sines: the same that it multiplies by.
Rope rope_of(const SequentialInverse& p, const InverseSizes& s, float* unit, float* angles) {
    View x = view(unit, DType::f32, 1, s.N, 1, s.D);
    x.stride[1] = 0;
    return {
        .x = x, .y = view(angles, DType::f32, 1, s.N, 1, s.D), .position_offset = p.position, .theta = p.rope_theta};
}

void fill_angles(const SequentialInverse& p, const InverseSizes& s, float* angles, const Stream& stream, Workspace w) {
    float* unit = w.take<float>(s.D);
    std::fill(unit, unit + s.D / 2, 1.0f);
    std::fill(unit + s.D / 2, unit + s.D, 0.0f);
    rope_entry().run(rope_of(p, s, unit, angles), stream, w);
}

Status cancelled() {
    return Status::error(Code::aborted, "the inversion was cancelled");
}

/// What the loop needs, then what every worker does. fill_angles works where the workers' memory is later.
struct Plan {
    size_t shared, own, angles, table = 0;

    Plan(const SequentialInverse& p, const Stream& stream) {
        const InverseSizes s(p);
        const View& mean = p.head.mean;
        if (p.head.kind == CouplingKind::mixture_rosenblatt)
            table = ComponentTable::bytes(mean.shape[0], mean.shape[1]);
        shared = scratch_bytes<Shared>(s);
        own = scratch_bytes<Scratch>(p);
        angles = workspace_bytes<float>(s.D) + rope_entry().workspace(rope_of(p, s, nullptr, nullptr), stream);
    }
    size_t bytes(int team) const { return shared + table + std::max(own * static_cast<size_t>(team), angles); }
};

size_t workspace(const SequentialInverse& p, const Stream& stream) {
    return p.u.size() == 0 ? 0 : Plan(p, stream).bytes(team_of(stream));
}

Workspace take_bytes(Workspace& memory, size_t bytes) {
    return {memory.take<std::byte>(static_cast<int64_t>(bytes)), bytes};
}

Status inverse(const SequentialInverse& p, const Stream& stream, Workspace memory) {
    if (p.u.size() == 0) return {};
    if (stream.is_cancelled()) return cancelled();
    const Plan plan(p, stream);
    const int team = team_of(stream);
    Shared shared = cut_scratch<Shared>(InverseSizes(p), take_bytes(memory, plan.shared));
    shared.barrier = new (shared.barrier) SpinBarrier();
    *shared.stop = 0;
    if (plan.table) shared.table = component_table(p.head.mean, p.head.log_sigma, stream, memory);
    fill_angles(p, InverseSizes(p), shared.angles, stream, memory);
    parallel_for(stream, team, [&](int64_t i, int) {
        const Workspace own{memory.data + static_cast<size_t>(i) * plan.own, plan.own};
        Worker(p, shared, cut_scratch<Scratch>(p, own), static_cast<int>(i), team).run(stream);
    });
    return *shared.stop ? cancelled() : Status{};
}

}  // namespace

Op<SequentialInverse> sequential_inverse_entry() {
    return {inverse, workspace};
}

}  // namespace noema::cpu
