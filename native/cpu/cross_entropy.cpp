#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/head_stats.h"

namespace noema::cpu {

namespace {

bool wants_gradient(const CrossEntropy& p) {
    return p.d_hidden || p.d_weight || p.d_bias;
}

// Scored rows are packed together: in masked diffusion half of all rows have no target.
struct Call {
    explicit Call(const CrossEntropy& parameters)
        : p(parameters),
          R(p.hidden.shape[0]),
          C(p.hidden.shape[1]),
          V(p.weight.view.shape[0]),
          product({p.hidden, p.weight, p.bias, p.precision, p.excluded_id}, R,
                  wants_gradient(p) ? Keep::rows : Keep::chunk),
          stats({.sums = true}, product.block_rows(), p.excluded_id) {}

    void open(Workspace& workspace, const Stream& stream) {
        scored = workspace.take<int32_t>(R);
        target_logit = workspace.take<float>(product.block_rows());
        if (p.d_hidden) d_block = workspace.take<float>(product.block_rows() * C);
        stats.open(workspace, stream);
        product.open(workspace);
    }
    float scale(int64_t r) const { return p.row_weight ? p.row_weight.as<float>()[r] : 1.0f; }
    int32_t target(int64_t r) const { return p.targets.as<int32_t>()[r]; }

    // The three products of the backward pass, of a block of `count` rows of d_logits.
    Matmul input_gradient(int64_t count) const {
        const bool packed = p.weight.packed_precision == p.precision;
        return {.a = block(count),
                .b = p.weight.view,
                .c = view(d_block, DType::f32, count, C),
                .packed_b = packed ? p.weight.packed_transposed : nullptr,
                .precision = p.precision};
    }
    Matmul weight_gradient(int64_t count) const {
        return {.a = block(count),
                .b = view(product.hidden_row(0), DType::f32, count, C),
                .c = p.d_weight,
                .precision = p.precision,
                .transpose_a = true,
                .accumulate = true};
    }
    View block(int64_t count) const {
        View v = view(product.logits(0, 0), DType::f32, count, V);
        v.stride[0] = product.pitch();
        return v;
    }

    const CrossEntropy& p;
    int64_t R, C, V;
    HeadProduct product;
    HeadStats stats;
    int32_t* scored = nullptr;      // [R] rows with a target
    float* target_logit = nullptr;  // [block]
    float* d_block = nullptr;       // [block, C]
};

/// Unscored rows get their zeros; the others are listed.
int64_t list_scored(const Call& call) {
    const CrossEntropy& p = call.p;
    int64_t n = 0;
    for (int64_t r = 0; r < call.R; ++r) {
        if (call.target(r) >= 0) {
            call.scored[n++] = static_cast<int32_t>(r);
            continue;
        }
        p.loss.as<float>()[r] = 0;
        if (p.lse) p.lse.as<float>()[r] = 0;
        if (p.d_hidden) std::memset(p.d_hidden.at<float>(r), 0, sizeof(float) * call.C);
    }
    return n;
}

Status forward_block(Call& call, const Stream& stream, int64_t first, int64_t count) {
    call.product.gather(stream, call.scored + first, 0, count);
    for (int64_t row = 0; row < count; ++row) call.stats.start(row);
    return call.product.each_chunk(stream, count, [&](int64_t row, const float* x, int64_t id, int64_t n, int worker) {
        call.stats.observe(row, x, id, n, worker);
        const int64_t target = call.target(call.scored[first + row]) - id;
        if (target >= 0 && target < n) call.target_logit[row] = x[target];
    });
}

// log(sum) + (max - target) instead of lse - target: large logits do not eat the digits of a small loss.
void write_loss(const Call& call, int64_t first, int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
        const int64_t r = call.scored[first + row];
        const RowState& s = call.stats.state(row);
        const double loss = s.broken() ? NAN : std::log(s.sum) + (double{s.max} - call.target_logit[row]);
        call.p.loss.as<float>()[r] = static_cast<float>(loss);
        if (call.p.lse) call.p.lse.as<float>()[r] = static_cast<float>(s.lse());
    }
}

// The block's logits become row_weight (softmax - onehot).
void logits_to_gradients(const Call& call, const Stream& stream, int64_t first, int64_t count) {
    const int64_t chunks = (call.V + kHeadChunk - 1) / kHeadChunk;
    parallel_for(stream, count * chunks, [&](int64_t task, int) {
        const int64_t row = task / chunks, id = task % chunks * kHeadChunk;
        const int64_t r = call.scored[first + row], n = std::min(kHeadChunk, call.V - id), target = call.target(r) - id;
        const RowState& s = call.stats.state(row);
        float* x = call.product.logits(row, id);
        if (s.broken()) return std::fill(x, x + n, NAN);
        scaled_softmax(x, n, s.max, static_cast<float>(call.scale(r) / s.sum));
        if (target >= 0 && target < n) x[target] -= call.scale(r);
    });
}

Status backward_block(Call& call, const Stream& stream, int64_t first, int64_t count) {
    const CrossEntropy& p = call.p;
    logits_to_gradients(call, stream, first, count);
    if (p.d_bias) {
        parallel_for(stream, (call.V + kHeadChunk - 1) / kHeadChunk, [&](int64_t chunk, int) {
            const int64_t id = chunk * kHeadChunk, n = std::min(kHeadChunk, call.V - id);
            add_rows_to(p.d_bias.as<float>() + id, call.product.logits(0, id), count, call.product.pitch(), n);
        });
    }
    if (p.d_weight) NOEMA_TRY(call.product.multiply(stream, call.weight_gradient(count)));
    if (!p.d_hidden) return {};
    NOEMA_TRY(call.product.multiply(stream, call.input_gradient(count)));
    HeadProduct::each_row(stream, count, [&](int64_t row, int) {
        std::memcpy(p.d_hidden.at<float>(call.scored[first + row]), call.d_block + row * call.C,
                    sizeof(float) * call.C);
    });
    return {};
}

size_t gradient_workspace(const Call& call, const Stream& stream) {
    const int64_t rows = call.product.block_rows();
    const auto input = [&](int64_t count) { return call.input_gradient(count); };
    const auto weight = [&](int64_t count) { return call.weight_gradient(count); };
    return std::max(call.p.d_hidden ? largest_product(stream, rows, input) : 0,
                    call.p.d_weight ? largest_product(stream, rows, weight) : 0);
}

size_t workspace_size(const CrossEntropy& p, const Stream& stream) {
    const Call call(p);
    const size_t own = workspace_bytes<int32_t>(call.R) + workspace_bytes<float>(call.product.block_rows());
    const size_t d_block = p.d_hidden ? workspace_bytes<float>(call.product.block_rows() * call.C) : 0;
    return own + d_block + call.stats.workspace(stream) +
           call.product.workspace(stream, gradient_workspace(call, stream));
}

Status run(const CrossEntropy& p, const Stream& stream, Workspace workspace) {
    Call call(p);
    call.open(workspace, stream);
    const int64_t n = list_scored(call);
    for (int64_t first = 0; first < n; first += call.product.block_rows()) {
        const int64_t count = std::min(call.product.block_rows(), n - first);
        NOEMA_TRY(forward_block(call, stream, first, count));
        write_loss(call, first, count);
        if (wants_gradient(p)) NOEMA_TRY(backward_block(call, stream, first, count));
    }
    return {};
}

}  // namespace

Op<CrossEntropy> cross_entropy_entry() {
    return {run, workspace_size};
}

}  // namespace noema::cpu
