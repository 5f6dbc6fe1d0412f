#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rope.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "cpu/cpu.h"
#include "cpu/simd-inl.h"
#include "cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace noema::cpu::HWY_NAMESPACE {

// Unnamed: other ops have helpers of the same names.
namespace {

// One row of the table from the angles of its two parts, by the addition theorems, in double (plain loops: the compiler
// vectorises them). A row of `high` and `low` is P cosines, then P sines.
void combine_angles(const Rope& p, const double* high, const double* low, float* row) {
    const int64_t P = p.x.shape[3] / 2;
    const double sign = p.inverse ? -1.0 : 1.0;
    if (p.layout == RopeLayout::half_split) {
        for (int64_t i = 0; i < P; ++i) {
            row[i] = static_cast<float>(high[i] * low[i] - high[P + i] * low[P + i]);
            row[P + i] = static_cast<float>(sign * (high[P + i] * low[i] + high[i] * low[P + i]));
        }
        return;
    }
    for (int64_t i = 0; i < P; ++i) {
        const float sine = static_cast<float>(sign * (high[P + i] * low[i] + high[i] * low[P + i]));
        row[2 * i] = row[2 * i + 1] = static_cast<float>(high[i] * low[i] - high[P + i] * low[P + i]);
        row[2 * P + 2 * i] = -sine;
        row[2 * P + 2 * i + 1] = sine;
    }
}

// row: P cosines, P sines.
void turn_halves(const float* x, float* y, const float* row, int64_t P) {
    for_each_vector(P, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF a = load(x), b = load(x + P), c = load(row), s = load(row + P);
        store(hn::NegMulAdd(b, s, hn::Mul(a, c)), y);
        store(hn::MulAdd(a, s, hn::Mul(b, c)), y + P);
    });
}

// row: D cosines, each twice; D sines, each twice, the first of a pair negated.
void turn_pairs(const float* x, float* y, const float* row, int64_t D) {
#if HWY_TARGET == HWY_SCALAR  // vectors of one lane have no neighbours to swap
    for (int64_t i = 0; i < D; i += 2) {
        const float a = x[i], b = x[i + 1];
        y[i] = a * row[i] + b * row[D + i];
        y[i + 1] = b * row[i + 1] + a * row[D + i + 1];
    }
#else
    for_each_vector(D, [&](auto load, auto store, int64_t) HWY_ATTR {
        const VF v = load(x);
        store(hn::MulAdd(hn::Shuffle2301(v), load(row + D), hn::Mul(v, load(row))), y);
    });
#endif
}

/// Every head of the positions [first, last), counted over all batch rows.
void turn_positions(const Rope& p, const float* table, int64_t first, int64_t last) {
    const int64_t T = p.x.shape[1], H = p.x.shape[2], D = p.x.shape[3];
    const bool halves = p.layout == RopeLayout::half_split;
    const int64_t width = halves ? D : 2 * D;
    for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / T, t = i % T;
        const float* row = table + (p.positions ? i : t) * width;
        for (int64_t h = 0; h < H; ++h) {
            const float* x = p.x.at<float>(b, t, h);
            float* y = p.y.at<float>(b, t, h);
            halves ? turn_halves(x, y, row, D / 2) : turn_pairs(x, y, row, D);
        }
    }
}

}  // namespace
}  // namespace noema::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace noema::cpu {

HWY_EXPORT(combine_angles);
HWY_EXPORT(turn_positions);

namespace {

// A position is 16 a + b. Sines and cosines (15 ns a pair) are taken of 16 a f and b f only, 16 + T/16 rows instead of T;
// the rest are four products. The split depends on the position alone, so a position's row is the same in any call.
constexpr int64_t kStep = 16;
constexpr int64_t kTaskRows = 64;

struct Angles {
    double* frequency;  // [P]
    double* low;        // [kStep, 2P] when there are many rows
    double* scratch;    // [threads, 2, 2P]: the high part, and the low part when there are few rows
    float* table;       // [rows, width]
    int64_t rows;       // distinct entries: T consecutive positions, or B*T given ones
    int64_t width;
};

int64_t table_rows(const Rope& p) {
    return p.positions ? p.x.shape[0] * p.x.shape[1] : p.x.shape[1];
}
int64_t table_width(const Rope& p) {
    return p.layout == RopeLayout::half_split ? p.x.shape[3] : 2 * p.x.shape[3];
}

size_t workspace(const Rope& p, const Stream& stream) {
    const int64_t D = p.x.shape[3], rows = table_rows(p);
    return workspace_bytes<double>(D / 2) + (rows >= kStep ? workspace_bytes<double>(kStep * D) : 0) +
           workspace_bytes<double>(stream.threads * 2 * D) + workspace_bytes<float>(rows * table_width(p));
}

Angles take_angles(const Rope& p, const Stream& stream, Workspace& w) {
    const int64_t D = p.x.shape[3];
    Angles a{};
    a.rows = table_rows(p);
    a.width = table_width(p);
    a.frequency = w.take<double>(D / 2);
    a.low = a.rows >= kStep ? w.take<double>(kStep * D) : nullptr;
    a.scratch = w.take<double>(stream.threads * 2 * D);
    a.table = w.take<float>(a.rows * a.width);
    return a;
}

void turn_row(const double* frequency, int64_t P, double position, double* row) {
    for (int64_t i = 0; i < P; ++i) {
        row[i] = std::cos(position * frequency[i]);
        row[P + i] = std::sin(position * frequency[i]);
    }
}

int64_t position_of(const Rope& p, int64_t i) {
    const int64_t T = p.x.shape[1];
    return p.positions ? *p.positions.at<int32_t>(i / T, i % T) : p.position_offset + i;
}

void fill_rows(const Rope& p, const Angles& a, int64_t first, int64_t last, int worker) {
    const int64_t D = p.x.shape[3], P = D / 2;
    double* high = a.scratch + worker * 2 * D;
    int64_t have = 0;
    for (int64_t i = first; i < last; ++i) {
        const int64_t position = position_of(p, i), b = position & (kStep - 1), base = position - b;
        if (i == first || base != have) turn_row(a.frequency, P, static_cast<double>(base), high);
        have = base;
        double* low = a.low ? a.low + b * D : high + D;
        if (!a.low) turn_row(a.frequency, P, static_cast<double>(b), low);
        HWY_DYNAMIC_DISPATCH(combine_angles)(p, high, low, a.table + i * a.width);
    }
}

Status forward(const Rope& p, const Stream& stream, Workspace w) {
    const int64_t B = p.x.shape[0], T = p.x.shape[1], H = p.x.shape[2], D = p.x.shape[3], P = D / 2;
    if (p.x.size() == 0) return {};
    const Angles a = take_angles(p, stream, w);
    for (int64_t i = 0; i < P; ++i)
        a.frequency[i] = std::pow(p.theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
    if (a.low)
        parallel_for(stream, kStep,
                     [&](int64_t b, int) { turn_row(a.frequency, P, static_cast<double>(b), a.low + b * D); });
    parallel_for(stream, ceil_div(a.rows, kTaskRows), [&](int64_t i, int worker) {
        fill_rows(p, a, i * kTaskRows, std::min(a.rows, (i + 1) * kTaskRows), worker);
    });
    parallel_rows(stream, B * T, H * D, [&](int64_t first, int64_t last) {
        HWY_DYNAMIC_DISPATCH(turn_positions)(p, a.table, first, last);
    });
    return {};
}

}  // namespace

Op<Rope> rope_entry() {
    return {forward, workspace};
}

}  // namespace noema::cpu
#endif
