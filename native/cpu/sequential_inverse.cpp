// A team of threads goes through all positions in one parallel_for: every worker runs the same program and has its share of every step,
// the panels of a product, the heads of an attention, the sequences of a search; between steps they meet at a barrier. Norms and the
// packing of rows, which are small beside the weights, are done by every worker for itself: that saves a barrier each. So does attention
// where a worker's share of q, k and v is whole heads, as many as anybody's.
//
//   lift | q k v | attention | o | gate up | down | ... | head | search
//
// The weights are all there is to read, and no arithmetic should wait for them: while a worker waits or attends, it asks for what it
// reads next (reading.h), and kernels of several rows fetch each group of panels while they multiply the one before.
//
// A step's pieces are cut by shape, and each is computed by one worker in one order.
#include "cpu/sequential_inverse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "cpu/attention_kernels.h"
#include "cpu/cpu.h"
#include "cpu/reading.h"

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

/// Panels whose sums are made together.
constexpr int64_t kGroupPanels = 32, kGroupColumns = kGroupPanels * kPanelColumns;

int64_t kept_head_bytes(const SequentialInverse& p, const InverseSizes& s) {
    return kept_bytes(p.position + s.N, s.D, p.precision == Precision::bf16);
}

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
    std::byte* kept;       // keys, then values, of every layer, sequence and head
    GroupedPanels panels;  // mixture_cdf's
    ComponentTable table;  // mixture_rosenblatt's

    template <class Take>
    void lay_out(const SequentialInverse& p, const Take& take) {
        const InverseSizes s(p);
        take(barrier, 1);
        take(stop, 1);
        take(angles, s.N * s.D);
        take(x, s.B * s.C);
        take(qkv, s.B * 3 * s.C);
        take(attention, s.B * s.C);
        take(gate, s.B * s.F);
        take(up, s.B * s.F);
        take(made, s.B * s.made);
        take(kept, 2 * p.layers * s.B * s.H * kept_head_bytes(p, s));
        panels.lay_out(p, take);
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
    Stretch* reading;  // of one position: input, then q k v o gate up down of every layer, then the head's
    std::byte* rows;   // packed
    float* before;     // [B,c] the position before, as the body reads it
    float* normed;     // [B,C]
    float* sums;       // [B,kGroupColumns]
    float* query;      // [padded_head(D)]
    float* weights;    // of the positions that a query sees
    CouplingScratch coupling;

    template <class Take>
    void lay_out(const SequentialInverse& p, const Take& take) {
        const InverseSizes s(p);
        take(reading, 7 * p.layers + 2);
        take(rows, static_cast<int64_t>(bytes_of_rows(p, s)));
        take(before, s.B * s.c);
        take(normed, s.B * s.C);
        take(sums, s.B * kGroupColumns);
        take(query, padded_head(s.D));
        take(weights, room_for_weights(p.position + s.N));
        coupling.lay_out(p, take);
    }
};

class Worker {
 public:
    Worker(const SequentialInverse& p, const Shared& shared, const Scratch& scratch, int worker, int team)
        : p_(p),
          s_(p),
          all_(shared),
          own_(scratch),
          worker_(worker),
          team_(team),
          rounding_(p.precision == Precision::bf16),
          owns_heads_(s_.H % team == 0 && s_.D % kPanelColumns == 0) {
        plan_reading();
    }

    void run(const Stream& stream) {
        keep_given();
        if (p_.head.kind == CouplingKind::mixture_cdf) all_.panels.pack(p_.head, share(s_.c));
        for (int64_t n = 0; n < s_.N; ++n) {
            lift(n);
            for (int64_t i = 0; i < p_.layers; ++i) block(i, n);
            make();
            uncouple_position({p_, all_.made, all_.table, all_.panels, n, share(s_.B * s_.units)}, own_.coupling);
            // One worker asks, all are told.
            if (worker_ == 0 && n + 1 < s_.N) *all_.stop = stream.is_cancelled();
            meet();
            if (*all_.stop) return;
        }
    }

 private:
    Share share(int64_t count) const { return {count, worker_, team_}; }
    View rows(float* data, int64_t columns) const { return view(data, DType::f32, s_.B, columns); }
    View qkv(int64_t part) const {
        View v = rows(all_.qkv + part * s_.C, s_.C);
        v.stride[0] = 3 * s_.C;
        return v;
    }

    /// multiply() takes one stretch after the other.
    void plan_reading() {
        const auto read = [&](const Weight& weight, Precision precision, Share panels) {
            own_.reading[stretches_++] = {&weight, precision, panels.first, panels.size()};
        };
        const auto of = [&](const Weight& weight) { return share(divide_up(weight.view.shape[0], kPanelColumns)); };
        const MakingProduct head = making_product(p_.head);
        read(p_.input, Precision::f32, of(p_.input));
        for (int64_t i = 0; i < p_.layers; ++i) {
            const InverseBlock& w = p_.blocks[i];
            int64_t part = 0;
            for (const Weight* weight : {&w.q, &w.k, &w.v}) read(*weight, p_.precision, share_of_qkv(part++));
            for (const Weight* weight : {&w.o, &w.gate, &w.up, &w.down}) read(*weight, p_.precision, of(*weight));
        }
        read(head.weight, Precision::f32, of(head.weight));
        int64_t bytes = 0;
        for (int64_t i = 0; i < stretches_; ++i) bytes += own_.reading[i].panels * own_.reading[i].panel_bytes();
        from_memory_ = beyond_caches(bytes * team_);
    }

    /// Whose heads are a worker's own needs nobody before attention. Else q, k and v are cut as one, into more even shares.
    Share share_of_qkv(int64_t part) const {
        const int64_t each = divide_up(s_.C, kPanelColumns);
        if (owns_heads_) return share(each);
        Share panels = share(3 * each);
        panels.first = std::clamp<int64_t>(panels.first - part * each, 0, each);
        panels.last = std::clamp<int64_t>(panels.last - part * each, 0, each);
        return panels;
    }

    void meet() {
        const uint32_t arrival = all_.barrier->arrive(worker_);
        ahead_.ask(kFirstLines);
        all_.barrier->wait(arrival, team_, [&] { ahead_.ask(kLinesPerLook); });
    }

    /// Products in bf16 read keys and values rounded; those that are given are rounded once, those to come as they are written.
    void keep_given() const {
        if (p_.position == 0) return;
        const Share heads = share(p_.layers * s_.B * s_.H);
        for (int64_t i = heads.first; i < heads.last; ++i) {
            const int64_t layer = i / (s_.B * s_.H), b = i / s_.H % s_.B, h = i % s_.H;
            const InverseBlock& w = p_.blocks[layer];
            for (const bool of_values : {false, true}) {
                const View& cache = of_values ? w.values : w.keys;
                keep_rows({cache.at<float>(b, 0, h), cache.stride[1], p_.position, s_.D, rounding_},
                          kept(layer, of_values, b, h));
                for (int64_t j = 0; j < p_.position && rounding_; ++j) round_row(cache.at<float>(b, j, h), s_.D);
            }
        }
    }

    std::byte* kept(int64_t layer, bool of_values, int64_t b, int64_t h) const {
        return all_.kept + (((2 * layer + of_values) * s_.B + b) * s_.H + h) * kept_head_bytes(p_, s_);
    }

    void lift(int64_t n) {
        for (int64_t b = 0; b < s_.B && n > 0; ++b)
            std::copy_n(p_.h.at<const double>(b, n - 1), s_.c, own_.before + b * s_.c);
        pack(n ? own_.before : p_.start.as<float>(), n ? s_.c : 0, s_.c, Precision::f32);
        multiply({.c = rows(all_.x, s_.C), .bias = p_.input_bias});
        for (int64_t b = 0; b < s_.B && worker_ == 0; ++b) *p_.failed.at<int32_t>(b, n) = 0;
        meet();
    }

    void block(int64_t layer, int64_t n) {
        const InverseBlock& w = p_.blocks[layer];
        const View x = rows(all_.x, s_.C), gate = rows(all_.gate, s_.F), up = rows(all_.up, s_.F);
        norm(w.attention_norm, p_.precision);
        for (int64_t part = 0; part < 3; ++part) multiply({.c = qkv(part)});
        if (!owns_heads_) meet();
        attend(layer, n);
        meet();
        pack(all_.attention, s_.C, s_.C, p_.precision);
        multiply({.c = x, .residual = x});
        meet();
        norm(w.mlp_norm, p_.precision);
        multiply({.c = gate});
        multiply({.c = up, .gate = gate});
        meet();
        pack(all_.up, s_.F, s_.F, p_.precision);
        multiply({.c = x, .residual = x});
        meet();
    }

    /// What the head makes of a position.
    void make() {
        norm(p_.norm, Precision::f32);
        multiply({.c = rows(all_.made, s_.made), .bias = making_product(p_.head).bias});
        meet();
    }

    /// A worker's own heads of all sequences, or its share of all heads of all sequences.
    void attend(int64_t layer, int64_t n) {
        const Share heads = owns_heads_ ? share(s_.H) : Share(s_.H, 0, 1);
        const Share pairs = owns_heads_ ? Share(s_.B * heads.size(), 0, 1) : share(s_.B * s_.H);
        for (int64_t i = pairs.first; i < pairs.last; ++i) {
            const auto head = [&](int64_t j) {
                return head_at(layer, n, j / heads.size(), heads.first + j % heads.size());
            };
            const CachedHead next = head(std::min(i + 1, pairs.last - 1));
            CachedHead now = head(i);
            now.reading.next_keys = next.reading.keys;
            now.reading.next_values = next.reading.values;
            attend_newest(now);
            ahead_.ask(kLinesPerHead);
        }
    }

    CachedHead head_at(int64_t layer, int64_t n, int64_t b, int64_t h) const {
        const InverseBlock& w = p_.blocks[layer];
        const int64_t D = s_.D, position = p_.position + n, before = kept_bytes(position, D, rounding_);
        const float* q = all_.qkv + b * 3 * s_.C + h * D;
        std::byte *keys = kept(layer, false, b, h), *values = kept(layer, true, b, h);
        return {.q = q,
                .k = q + s_.C,
                .v = q + 2 * s_.C,
                .angles = all_.angles + n * D,
                .key = w.keys.at<float>(b, position, h),
                .value = w.values.at<float>(b, position, h),
                .kept_key = keys + before,
                .kept_value = values + before,
                .query = own_.query,
                .reading = {.keys = keys,
                            .values = values,
                            .next_keys = nullptr,
                            .next_values = nullptr,
                            .first = position + 1,
                            .keys_given = position + 1,
                            .count = 1,
                            .queries = own_.query,
                            .D = D,
                            .scale = 1.0f / std::sqrt(static_cast<float>(D)),
                            .rounding = rounding_,
                            .weights = own_.weights,
                            .out = all_.attention + b * s_.C + h * D,
                            .out_stride = s_.C}};
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
        const int64_t steps = panel_steps(K, kernel_.panels);
        const Factor a{from, DType::f32, pitch, true, s_.B, K};
        for (int64_t s = 0; s < steps; s += kBlockSteps)
            pack_rows(a, kernel_.rows, {0, s_.B, s, std::min(kBlockSteps, steps - s)}, rows_at(s));
    }
    std::byte* rows_at(int64_t step) const { return own_.rows + step / kBlockSteps * s_.B * row_pitch(kernel_.rows); }

    /// The reading's next stretch times the rows packed last; `to` is the epilogue.
    void multiply(const Matmul& to) {
        const Stretch& stretch = own_.reading[next_];
        next_ = next_ + 1 < stretches_ ? next_ + 1 : 0;
        const std::byte* following = own_.reading[next_].data();
        for (int64_t i = 0; i < stretch.panels; i += kGroupPanels) {
            const int64_t panels = std::min(kGroupPanels, stretch.panels - i);
            const std::byte* data = stretch.data() + i * stretch.panel_bytes();
            const bool last = i + panels == stretch.panels;
            multiply_panels(stretch, {data, last ? following : data + panels * stretch.panel_bytes(), panels});
            const int64_t column = (stretch.first + i) * kPanelColumns;
            finish_block(to, {own_.sums, kGroupColumns, 0, s_.B, column,
                              std::min(stretch.weight->view.shape[0] - column, panels * kPanelColumns)});
        }
        ahead_ = Ahead(own_.reading[next_], s_.B);
    }

    struct Group {
        const std::byte *data, *next;
        int64_t panels;
    };
    void multiply_panels(const Stretch& stretch, const Group& group) const {
        const int64_t steps = stretch.steps();
        for (int64_t s = 0; s < steps; s += kBlockSteps) {
            const std::byte* data = group.data + s * kStepBytes;
            kernel_.multiply({.a = rows_at(s),
                              .b = data,
                              .panel_bytes = stretch.panel_bytes(),
                              .sums = own_.sums,
                              .pitch = kGroupColumns,
                              .rows = s_.B,
                              .panels = group.panels,
                              .steps = std::min(kBlockSteps, steps - s),
                              .first = s == 0,
                              .next = s + kBlockSteps < steps ? data + kBlockSteps * kStepBytes : group.next,
                              .from_memory = from_memory_});
        }
    }

    /// Lines asked for at once: before a wait, at every look at who has come, after every head. L3 gives a core about two lines per
    /// nanosecond.
    static constexpr int64_t kFirstLines = 64, kLinesPerLook = 8, kLinesPerHead = 32;

    const SequentialInverse& p_;
    const InverseSizes s_;
    const Shared& all_;
    const Scratch own_;
    const int worker_, team_;
    const bool rounding_, owns_heads_;
    int64_t stretches_ = 0, next_ = 0;  // the reading
    bool from_memory_ = false;          // all of it is more than a cache holds
    Ahead ahead_;                       // of its next
    BlockKernel kernel_{};              // of the rows that were packed last
};

int team_of(const Stream& stream) {
    return stream.dispatch ? std::min(stream.threads, SpinBarrier::kLargestTeam) : 1;
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
        shared = scratch_bytes<Shared>(p);
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
    Shared shared = cut_scratch<Shared>(p, take_bytes(memory, plan.shared));
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
