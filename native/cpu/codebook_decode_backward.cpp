// With share = d_log_sum exp(log N_k(z) - log_sum) and g = share / sigma_k²: d_z += g (mean_k - z), d_mean_k += g (z - mean_k),
// d_log_sigma_k += share (|z - mean_k|² / sigma_k² - d). Where exp is negligible for a whole vector of components (for all but a few, once sigma is
// small) only the distances are paid for.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/codebook_decode_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "cpu/codebook_decode.h"
#include "cpu/cpu.h"
#include "cpu/normal_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

constexpr int kRows = 4;

template <int n>
struct Group {
    const float* z[n];
    float* d_z[n];
    float log_sum[n], weight[n];
    float pull[n][kChunk];   // g
    int32_t active[kChunk];  // where the vectors start that have some g
    int64_t count;
};

/// Fills pull and the list of active vectors of a chunk at k; adds to d_log_sigma.
template <int n>
void find_pulls(const DecodeBackward& b, int64_t k, int64_t size, Group<n>& g, float* d_log_sigma) {
    const DF d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    const VF width = hn::Set(d, static_cast<float>(b.table.d));
    VF half[n][2];
    g.count = 0;
    for (int64_t i = 0; i < size; i += 2 * L) {
        half_distances<n>(b.table, g.z, k + i, half);
        for (int v = 0; v < 2; ++v) {
            const int64_t at = i + v * L;
            const VF peak = log_peak(b.table, k + at), half_inv = hn::LoadU(d, b.table.half_inv_var + k + at);
            VF x[n];
            bool any = false;
            for (int r = 0; r < n; ++r) {
                x[r] = hn::Sub(hn::Sub(peak, half[r][v]), hn::Set(d, g.log_sum[r]));
                any |= any_counts(x[r]);
            }
            if (!any) continue;
            VF total = hn::LoadU(d, d_log_sigma + at);
            for (int r = 0; r < n; ++r) {
                // What does not count is 0 here, too: a row's gradient may not depend on its neighbours.
                const VF p = hn::IfThenElseZero(counts(x[r]), exp_any(x[r]));
                const VF share = hn::Mul(hn::Set(d, g.weight[r]), p);
                hn::StoreU(hn::Mul(hn::Add(share, share), half_inv), d, g.pull[r] + at);
                total = hn::MulAdd(share, hn::Sub(hn::Add(half[r][v], half[r][v]), width), total);
            }
            hn::StoreU(total, d, d_log_sigma + at);
            g.active[g.count++] = static_cast<int32_t>(at);
        }
    }
}

template <int n>
void apply_pulls(const DecodeBackward& b, int64_t k, Group<n>& g, float* d_mean) {
    const DF d;
    for (int64_t i = 0; i < b.table.d && g.count > 0; ++i) {
        const float* means = b.table.mean_of(i) + k;
        float* to = d_mean + i * b.sums.stride;
        VF z[n], sum[n];
        for (int r = 0; r < n; ++r) z[r] = hn::Set(d, g.z[r][i]), sum[r] = hn::Zero(d);
        for (int64_t a = 0; a < g.count; ++a) {
            const int64_t at = g.active[a];
            const VF mean = hn::LoadU(d, means + at);
            VF total = hn::LoadU(d, to + at);
            for (int r = 0; r < n; ++r) {
                const VF x = hn::Sub(mean, z[r]), pull = hn::LoadU(d, g.pull[r] + at);
                sum[r] = hn::MulAdd(pull, x, sum[r]);
                total = hn::NegMulAdd(pull, x, total);
            }
            hn::StoreU(total, d, to + at);
        }
        for (int r = 0; r < n; ++r) g.d_z[r][i] += sum_of(sum[r]);
    }
}

template <int n>
void backward_rows(const DecodeBackward& b, int64_t span, int64_t row, int64_t k, int64_t size, float* d_mean) {
    Group<n> g;
    for (int r = 0; r < n; ++r) {
        g.z[r] = b.p.z.at<float>(row + r);
        g.d_z[r] = b.d_z + (span * b.p.z.shape[0] + row + r) * b.table.d;
        g.log_sum[r] = b.p.log_sum.as<float>()[row + r];
        g.weight[r] = b.p.d_log_sum.as<float>()[row + r];
    }
    find_pulls<n>(b, k, size, g, d_mean + b.table.d * b.sums.stride);
    apply_pulls<n>(b, k, g, d_mean);
}

void backward_block(const DecodeBackward& b, int64_t span, int64_t rows) {
    const int64_t R = b.p.z.shape[0], d = b.table.d, first = rows * b.row_chunk,
                  last = std::min(R, first + b.row_chunk);
    const int64_t end = std::min(b.table.padded(), (span + 1) * kBackwardSpan);
    std::memset(b.d_z + (span * R + first) * d, 0, sizeof(float) * (last - first) * d);
    for (int64_t k = span * kBackwardSpan; k < end; k += kChunk) {
        const int64_t size = std::min(kChunk, end - k);
        float* d_mean = b.sums.part(rows) + k;
        for (int64_t i = 0; i <= d; ++i) std::memset(d_mean + i * b.sums.stride, 0, sizeof(float) * size);
        int64_t r = first;
        for (; r + kRows <= last; r += kRows) backward_rows<kRows>(b, span, r, k, size, d_mean);
        for (; r < last; ++r) backward_rows<1>(b, span, r, k, size, d_mean);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(backward_block);

namespace {

/// Rows per chunk: 64, but the chunks' own sums shall not take more than 16 MB together.
int64_t row_chunk(const CodebookDecodeBackward& p) {
    const int64_t sums = (p.mean.shape[1] + 1) * ComponentTable::stride_of(p.mean.shape[0]);
    const int64_t most = std::max<int64_t>(1, (int64_t{1} << 22) / sums);
    return std::max<int64_t>(64, ceil_div(p.z.shape[0], most));
}

size_t workspace(const CodebookDecodeBackward& p, const Stream&) {
    const int64_t R = p.z.shape[0], V = p.mean.shape[0], d = p.mean.shape[1];
    return ComponentTable::bytes(V, d) + TableSums::bytes(ceil_div(R, row_chunk(p)), V, d) +
           workspace_bytes<float>(ceil_div(V, kBackwardSpan) * R * d);
}

void add_spans(const DecodeBackward& b, int64_t spans, const Stream& stream) {
    const int64_t R = b.p.z.shape[0], d = b.table.d;
    parallel_rows(stream, R, d * spans, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r)
            for (int64_t i = 0; i < d; ++i) {
                float sum = b.p.accumulate_z ? b.p.d_z.at<float>(r)[i] : 0.0f;
                for (int64_t span = 0; span < spans; ++span) sum += b.d_z[(span * R + r) * d + i];
                b.p.d_z.at<float>(r)[i] = sum;
            }
    });
}

Status run(const CodebookDecodeBackward& p, const Stream& stream, Workspace w) {
    const int64_t R = p.z.shape[0], V = p.mean.shape[0], d = p.mean.shape[1], rows = row_chunk(p);
    const int64_t chunks = ceil_div(R, rows), spans = ceil_div(V, kBackwardSpan);
    if (R == 0) return {};
    const ComponentTable table = component_table(p.mean, p.log_sigma, stream, w);
    const TableSums sums = table_sums(chunks, V, d, w);
    const DecodeBackward b{p, table, sums, w.take<float>(spans * R * d), rows};
    parallel_for(stream, chunks * spans, [&](int64_t i, int) {
        HWY_DYNAMIC_DISPATCH(backward_block)(b, i / chunks, i % chunks);
    });
    add_spans(b, spans, stream);
    add_table_sums(sums, p.d_mean, p.d_log_sigma, stream);
    return {};
}

}  // namespace

Op<CodebookDecodeBackward> codebook_decode_backward_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
