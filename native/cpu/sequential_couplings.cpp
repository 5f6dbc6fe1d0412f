// Each coupling by its own op, on one worker's share of a position.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/rosenblatt.h"
#include "cpu/sequential_inverse.h"

namespace noema::cpu {

namespace {

/// Columns of a worker's own rows of `width` each.
template <class T>
View part(T* rows, int64_t R, int64_t width, int64_t first, int64_t columns) {
    View some = view(rows + first, sizeof(T) == sizeof(double) ? DType::f64 : DType::f32, R, columns);
    some.stride[0] = width;
    return some;
}

class Uncoupling {
 public:
    Uncoupling(const CouplingTask& task, const CouplingScratch& scratch)
        : t_(task), head_(task.p.head), s_(task.p), x_(scratch), R_(task.units.size()) {}

    /// What is given is taken to the worker's own memory, goes through the coupling there, and what was found goes to where it belongs.
    void run() {
        const size_t bytes = sizeof(double) * static_cast<size_t>(s_.width());
        for (int64_t r = 0; r < R_; ++r) std::memcpy(x_.found + r * s_.width(), place(t_.p.u, r), bytes);
        std::memset(x_.failed, 0, sizeof(int32_t) * static_cast<size_t>(R_));
        switch (head_.kind) {
            case CouplingKind::affine: affine(); break;
            case CouplingKind::mixture_cdf: mixture_cdf(); break;
            case CouplingKind::mixture_rosenblatt: mixture_rosenblatt(); break;
        }
        for (int64_t r = 0; r < R_; ++r) put(r);
    }

 private:
    /// Of unit r in [B,N,c].
    double* place(const View& v, int64_t r) const {
        const int64_t unit = t_.units.first + r;
        return v.at<double>(unit / s_.units, t_.n) + unit % s_.units * s_.width();
    }
    const float* made(int64_t r) const { return t_.made + (t_.units.first + r) * (s_.made / s_.units); }
    Workspace search() const { return {x_.search, x_.search_bytes}; }

    void affine() const {
        const View parameters = view(const_cast<float*>(made(0)), DType::f32, R_, s_.made);
        const View rows = view(x_.found, DType::f64, R_, s_.c);
        affine_inverse_entry().run({.u = rows, .parameters = parameters, .h = rows, .grid = t_.p.grid}, Stream(), {});
    }

    void mixture_cdf() const {
        const int64_t K = head_.K, c = s_.c;
        const View parameters = view(x_.parameters, DType::f32, R_, 1, 3 * K);
        for (int64_t i = 0; i < c; ++i) {
            if (i > 0) add_features(i - 1);
            make_parameters(i);
            const View scalar = part(x_.found, R_, c, i, 1);
            mixture_cdf_inverse_entry().run({.u = scalar,
                                             .parameters = parameters,
                                             .h = scalar,
                                             .failed = view(x_.of_scalar, DType::i32, R_),
                                             .grid = t_.p.grid},
                                            Stream(), search());
            for (int64_t r = 0; r < R_; ++r) x_.narrow[r * c + i] = static_cast<float>(x_.found[r * c + i]);
            for (int64_t r = 0; r < R_; ++r) x_.failed[r] += x_.of_scalar[r];
        }
    }

    void mixture_rosenblatt() const {
        const ComponentTable& table = t_.table;
        const View tokens = view(x_.found, DType::f64, R_, table.d);
        const View logits = view(const_cast<float*>(made(0)), DType::f32, R_, table.K);
        const WideMemory memory{reinterpret_cast<double*>(x_.search), table.K, table.d};
        invert_tokens({.u = tokens,
                       .logits = logits,
                       .mean = head_.mean,
                       .log_sigma = head_.log_sigma,
                       .z = tokens,
                       .failed = view(x_.failed, DType::i32, R_),
                       .grid = t_.p.grid},
                      table, memory, 0, R_);
    }

    /// Of scalar j alone: a head of two channels, of which the first counts.
    void add_features(int64_t j) const {
        const int64_t E = head_.E, c = s_.c;
        maf_features_entry().run({.x = part(x_.narrow, R_, c, j, 2),
                                  .weight = view(head_.embed.at<float>(j * E), DType::f32, 1, E, 3),
                                  .bias = view(head_.embed_bias.as<float>() + j * E, DType::f32, 1, E),
                                  .y = part(x_.features, R_, (c - 1) * E, j * E, E)},
                                 Stream(), {});
    }

    /// Scalar i's: out_i gelu(context_i + features_i y[scalars before i]) + bias_i, added up as the ops one by one do.
    void make_parameters(int64_t i) const {
        const int64_t E = head_.E, M = head_.M, width = 3 * head_.K, pitch = CouplingScratch::sum_columns(head_);
        const std::byte* features = t_.panels.features + GroupedPanels::features_at(head_, i);
        const std::byte* out = t_.panels.out + GroupedPanels::out_at(head_, i);
        const View hidden = view(x_.hidden, DType::f32, R_, M), made = view(x_.parameters, DType::f32, R_, width);
        for (int64_t r = 0; r < R_; ++r) std::copy_n(this->made(r) + i * M, M, x_.hidden + r * M);
        if (i > 0) {
            multiply({features, out, i * E, M, x_.features, (s_.c - 1) * E});
            finish_block({.c = hidden, .accumulate = true}, {x_.sums, pitch, 0, R_, 0, M});
        }
        gelu_entry().run({.x = hidden, .y = hidden}, Stream(), {});
        multiply({out, features + divide_up(M, kPanelColumns) * i * E * kStepBytes, M, width, x_.hidden, M});
        View bias = head_.out_bias;
        bias.data = bias.as<float>() + i * width;
        finish_block({.c = made, .bias = bias}, {x_.sums, pitch, 0, R_, 0, width});
    }

    struct ScalarProduct {
        const std::byte *panels, *next;  // and what is read after them
        int64_t K, columns;
        const float* rows;
        int64_t pitch;
    };
    void multiply(const ScalarProduct& p) const {
        const BlockKernel kernel = block_kernel(Precision::f32);
        const Factor rows{p.rows, DType::f32, p.pitch, true, R_, p.K};
        for (int64_t s = 0; s < p.K; s += kBlockSteps) {
            const int64_t steps = std::min(kBlockSteps, p.K - s);
            pack_rows(rows, kernel.rows, {0, R_, s, steps}, x_.rows);
            kernel.multiply({.a = x_.rows,
                             .b = p.panels + s * kStepBytes,
                             .panel_bytes = p.K * kStepBytes,
                             .sums = x_.sums,
                             .pitch = CouplingScratch::sum_columns(head_),
                             .rows = R_,
                             .panels = divide_up(p.columns, kPanelColumns),
                             .steps = steps,
                             .first = s == 0,
                             .next = s + steps < p.K ? p.panels + (s + steps) * kStepBytes : p.next});
        }
    }

    /// What is fixed stays, and nothing was sought. Units of one position may belong to several workers.
    void put(int64_t r) const {
        const int64_t b = (t_.units.first + r) / s_.units;
        const View &fixed = t_.p.fixed, &failed = t_.p.failed;
        if (fixed && fixed.at<uint8_t>(b)[t_.n * fixed.stride[1]]) return;
        std::memcpy(place(t_.p.h, r), x_.found + r * s_.width(), sizeof(double) * static_cast<size_t>(s_.width()));
        std::atomic_ref(*failed.at<int32_t>(b, t_.n)).fetch_add(x_.failed[r], std::memory_order_relaxed);
    }

    const CouplingTask& t_;
    const InverseHead& head_;
    const InverseSizes s_;
    const CouplingScratch& x_;
    const int64_t R_;
};

}  // namespace

void GroupedPanels::pack(const InverseHead& head, Share scalars) const {
    const auto pack_part = [](const View& v, int64_t row, int64_t rows, int64_t K, std::byte* to) {
        const std::byte* data =
            static_cast<const std::byte*>(v.data) + row * v.stride[0] * static_cast<int64_t>(dtype_size(v.dtype));
        pack_panels({data, v.dtype, v.stride[0], true, rows, K}, Packing::f32, {0, rows, 0, K}, to, K * kStepBytes);
    };
    for (int64_t i = scalars.first; i < scalars.last; ++i) {
        pack_part(head.features, i * head.M, head.M, i * head.E, features + features_at(head, i));
        pack_part(head.out, i * 3 * head.K, 3 * head.K, head.M, out + out_at(head, i));
    }
}

size_t CouplingScratch::bytes_of_search(const SequentialInverse& p) {
    const InverseSizes s(p);
    const InverseHead& head = p.head;
    switch (head.kind) {
        case CouplingKind::affine: return 0;
        case CouplingKind::mixture_cdf: {
            const View one = view(nullptr, DType::f64, s.B, 1);
            const View parameters = view(nullptr, DType::f32, s.B, 1, 3 * head.K);
            return mixture_cdf_inverse_entry().workspace({.u = one, .parameters = parameters, .h = one}, Stream());
        }
        case CouplingKind::mixture_rosenblatt: break;
    }
    return workspace_bytes<double>(WideMemory::doubles(head.mean.shape[0], head.mean.shape[1]));
}

void uncouple_position(const CouplingTask& task, const CouplingScratch& scratch) {
    if (task.units.size() > 0) Uncoupling(task, scratch).run();
}

}  // namespace noema::cpu
