#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/reduce.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#include "cpu/cpu.h"
#include "cpu/reduce.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

// Everything runs in double lanes, extremes and counts too: 32 bytes read per vector keep up with memory, and one loop
// serves all kinds.
using DD = hn::ScalableTag<double>;
using VD = hn::Vec<DD>;
using DH = hn::Rebind<float, DD>;

HWY_INLINE VD widened(const float* p) {
    return hn::PromoteTo(DD(), hn::LoadU(DH(), p));
}
HWY_INLINE VD widened(const uint16_t* p) {  // bf16
    const hn::Rebind<uint16_t, DD> dh;
    const hn::Rebind<uint32_t, DD> du;
    return hn::PromoteTo(DD(), hn::BitCast(DH(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, p)))));
}

double start_of(ReduceKind kind) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return kind == ReduceKind::max ? -infinity : kind == ReduceKind::min ? infinity : 0.0;
}

/// One more value. A comparison with NaN is false, so max and min skip it.
template <ReduceKind kind>
HWY_INLINE VD step(VD sum, VD x) {
    const DD d;
    if constexpr (kind == ReduceKind::max) return hn::IfThenElse(hn::Gt(x, sum), x, sum);
    if constexpr (kind == ReduceKind::min) return hn::IfThenElse(hn::Lt(x, sum), x, sum);
    if constexpr (kind == ReduceKind::sum_squares) return hn::MulAdd(x, x, sum);
    if constexpr (kind == ReduceKind::count_non_finite) {
        const auto finite = hn::Lt(hn::Abs(x), hn::Set(d, std::numeric_limits<double>::infinity()));
        return hn::Add(sum, hn::IfThenZeroElse(finite, hn::Set(d, 1.0)));
    }
    return hn::Add(sum, x);
}

/// Two partial results.
template <ReduceKind kind>
HWY_INLINE VD merge(VD a, VD b) {
    if constexpr (kind == ReduceKind::max || kind == ReduceKind::min) return step<kind>(a, b);
    return hn::Add(a, b);
}

template <ReduceKind kind>
double across(VD v) {
    if constexpr (kind == ReduceKind::max) return hn::GetLane(hn::MaxOfLanes(DD(), v));
    if constexpr (kind == ReduceKind::min) return hn::GetLane(hn::MinOfLanes(DD(), v));
    return hn::GetLane(hn::SumOfLanes(DD(), v));
}

/// n values side by side.
template <ReduceKind kind, class T>
double fold_row(const T* x, int64_t n) {
    const DD d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    VD a = hn::Set(d, start_of(kind)), b = a, c = a, e = a;
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        a = step<kind>(a, widened(x + i));
        b = step<kind>(b, widened(x + i + L));
        c = step<kind>(c, widened(x + i + 2 * L));
        e = step<kind>(e, widened(x + i + 3 * L));
    }
    for (; i + L <= n; i += L) a = step<kind>(a, widened(x + i));
    a = merge<kind>(merge<kind>(a, b), merge<kind>(c, e));
    if (i == n) return across<kind>(a);
    T rest[HWY_MAX_BYTES / sizeof(double)] = {};
    for (int64_t j = i; j < n; ++j) rest[j - i] = x[j];
    const VD last = step<kind>(hn::Set(d, start_of(kind)), widened(rest));
    const VD none = hn::Set(d, start_of(kind));
    return across<kind>(merge<kind>(a, hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(n - i)), last, none)));
}

/// sums[j] over `rows` rows that are `stride` apart, for n columns.
template <ReduceKind kind, class T>
void fold_columns(const T* x, int64_t stride, int64_t rows, int64_t n, double* sums) {
    const DD d;
    const int64_t L = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t j = 0; j < n; ++j) sums[j] = start_of(kind);
    for (int64_t r = 0; r < rows; ++r, x += stride) {
        int64_t j = 0;
        for (; j + L <= n; j += L) hn::StoreU(step<kind>(hn::LoadU(d, sums + j), widened(x + j)), d, sums + j);
        for (; j < n; ++j) {
            const T one[HWY_MAX_BYTES / sizeof(double)] = {x[j]};
            sums[j] = hn::GetLane(step<kind>(hn::Set(d, sums[j]), widened(one)));
        }
    }
}

template <ReduceKind kind>
void fold(const ReducePiece& p) {
    if (p.columns_stay && p.bf16) return fold_columns<kind>(p.as<uint16_t>(), p.stride, p.rows, p.n, p.sums);
    if (p.columns_stay) return fold_columns<kind>(p.as<float>(), p.stride, p.rows, p.n, p.sums);
    *p.sums = p.bf16 ? fold_row<kind>(p.as<uint16_t>(), p.n) : fold_row<kind>(p.as<float>(), p.n);
}

void fold_piece(ReduceKind kind, const ReducePiece& p) {
    switch (kind) {
        case ReduceKind::sum:
        case ReduceKind::mean: return fold<ReduceKind::sum>(p);
        case ReduceKind::max: return fold<ReduceKind::max>(p);
        case ReduceKind::min: return fold<ReduceKind::min>(p);
        case ReduceKind::sum_squares: return fold<ReduceKind::sum_squares>(p);
        case ReduceKind::count_non_finite: return fold<ReduceKind::count_non_finite>(p);
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(fold_piece);

namespace {

constexpr int64_t kChunkRows = 256;       // rows that one piece adds up when rows disappear
constexpr int64_t kChunkColumns = 16384;  // columns that one piece adds up when columns disappear
constexpr int64_t kBlock = 2048;          // columns that one piece keeps: 16 KB of sums stay in L1

bool rows_stay(const Reduce& p) {
    return p.axis == ReduceAxis::columns;
}

/// Partial results per element of y.
int64_t parts_per_result(const Reduce& p) {
    return rows_stay(p) ? ceil_div(p.x.shape[1], kChunkColumns) : ceil_div(p.x.shape[0], kChunkRows);
}

size_t workspace(const Reduce& p, const Stream&) {
    return workspace_bytes<double>(parts_per_result(p) * p.y.shape[0]);
}

ReducePiece piece_at(const Reduce& p, int64_t row, int64_t column) {
    ReducePiece piece{};
    piece.bf16 = p.x.dtype == DType::bf16;
    piece.stride = p.x.stride[0];
    piece.x = p.x.as<char>() + (row * p.x.stride[0] + column) * static_cast<int64_t>(dtype_size(p.x.dtype));
    return piece;
}

/// parts [R, chunks]
void fold_rows(const Reduce& p, double* parts, const Stream& stream) {
    const int64_t C = p.x.shape[1], chunks = parts_per_result(p);
    if (!chunks) return;
    parallel_rows(stream, p.x.shape[0] * chunks, std::min(C, kChunkColumns), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t column = i % chunks * kChunkColumns;
            ReducePiece piece = piece_at(p, i / chunks, column);
            piece.n = std::min(kChunkColumns, C - column);
            piece.sums = parts + i;
            HWY_DYNAMIC_DISPATCH(fold_piece)(p.kind, piece);
        }
    });
}

/// parts [chunks, C]
void fold_columns(const Reduce& p, double* parts, const Stream& stream) {
    const int64_t R = p.x.shape[0], C = p.x.shape[1], blocks = ceil_div(C, kBlock);
    parallel_for(stream, parts_per_result(p) * blocks, [&](int64_t i, int) {
        const int64_t row = i / blocks * kChunkRows, column = i % blocks * kBlock;
        ReducePiece piece = piece_at(p, row, column);
        piece.columns_stay = true;
        piece.rows = std::min(kChunkRows, R - row);
        piece.n = std::min(kBlock, C - column);
        piece.sums = parts + i / blocks * C + column;
        HWY_DYNAMIC_DISPATCH(fold_piece)(p.kind, piece);
    });
}

double merged(ReduceKind kind, double a, double b) {
    if (kind == ReduceKind::max) return b > a ? b : a;
    if (kind == ReduceKind::min) return b < a ? b : a;
    return a + b;
}

double start(ReduceKind kind) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return kind == ReduceKind::max ? -infinity : kind == ReduceKind::min ? infinity : 0.0;
}

Status run(const Reduce& p, const Stream& stream, Workspace w) {
    const int64_t results = p.y.shape[0], chunks = parts_per_result(p);
    double* parts = w.take<double>(chunks * results);
    rows_stay(p) ? fold_rows(p, parts, stream) : fold_columns(p, parts, stream);
    const int64_t step = rows_stay(p) ? 1 : results, next = rows_stay(p) ? chunks : 1;
    float* y = p.y.as<float>();
    for (int64_t i = 0; i < results; ++i) {
        double sum = start(p.kind);
        for (int64_t j = 0; j < chunks; ++j) sum = merged(p.kind, sum, parts[i * next + j * step]);
        if (p.kind == ReduceKind::mean) sum /= static_cast<double>(rows_stay(p) ? p.x.shape[1] : p.x.shape[0]);
        y[i] = static_cast<float>(p.accumulate ? y[i] + sum : sum);
    }
    return {};
}

}  // namespace

Op<Reduce> reduce_entry() {
    return {run, workspace};
}

}  // namespace noema::cpu
#endif
