#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gated_add.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "cpu/column_sums.h"
#include "cpu/cpu.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

void gated_add_rows(const GatedAdd& p, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
        const float *x = p.x.at<float>(r), *f = p.f.at<float>(r), *gate = p.gate.at<float>(r / p.rows_per_sequence);
        float* y = p.y.at<float>(r);
        for_each_vector(p.x.shape[1], [&](auto load, auto store, int64_t)
                                          HWY_ATTR { store(hn::MulAdd(load(gate), load(f), load(x)), y); });
    }
}

// d_gate: this chunk's row of sums; the chunk lies in one sequence.
void gated_add_rows_backward(const GatedAddBackward& p, float* d_gate, int64_t first, int64_t last) {
    const int64_t C = p.f.shape[1];
    if (d_gate) std::memset(d_gate, 0, sizeof(float) * C);
    for (int64_t r = first; r < last; ++r) {
        const float *f = p.f.at<float>(r), *d_y = p.d_y.at<float>(r), *gate = p.gate.at<float>(r / p.rows_per_sequence);
        float* d_f = p.d_f.at<float>(r);
        for_each_vector(C, [&](auto load, auto store, int64_t) HWY_ATTR {
            const VF g = load(d_y);
            if (d_gate) store(hn::MulAdd(g, load(f), load(d_gate)), d_gate);
            store(hn::Mul(g, load(gate)), d_f);
        });
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(gated_add_rows);
HWY_EXPORT(gated_add_rows_backward);

namespace {

Status forward(const GatedAdd& p, const Stream& stream, Workspace) {
    parallel_rows(stream, p.x.shape[0], p.x.shape[1], [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(gated_add_rows)(p, first, last);
    });
    return {};
}

RowChunks chunks(const GatedAddBackward& p) {
    return {p.f.shape[0], p.rows_per_sequence};
}

size_t backward_workspace(const GatedAddBackward& p, const Stream&) {
    return p.d_gate ? workspace_bytes<float>(chunks(p).count() * p.f.shape[1]) : 0;
}

Status backward(const GatedAddBackward& p, const Stream& stream, Workspace workspace) {
    const int64_t C = p.f.shape[1];
    const RowChunks rows = chunks(p);
    float* parts = p.d_gate ? workspace.take<float>(rows.count() * C) : nullptr;
    parallel_for(stream, rows.count(), [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(gated_add_rows_backward)(p, parts ? parts + i * C : nullptr, rows.first(i), rows.last(i));
    });
    if (parts)
        column_sums({parts, rows.sequences(), rows.per_sequence(), C, p.d_gate.as<float>(), p.d_gate.stride[0], false},
                    stream);
    return {};
}

}  // namespace

Op<GatedAdd> gated_add_entry() {
    return {forward, nullptr};
}
Op<GatedAddBackward> gated_add_backward_entry() {
    return {backward, backward_workspace};
}

}  // namespace noema::cpu
#endif
