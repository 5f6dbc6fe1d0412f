// sequential_sweep: the steps of sequential_inverse for all positions at once, each a kernel of its own. Rows are sequences at a position;
// a block has some of them in its shared memory, as many as one mma has, and makes its share of a product's columns. Sums are made in
// sequential_inverse's order: products by the same multiply_lines, each head's part of o and each slice's part of down added to the
// residual stream in turn, norms by the same threads.
#include <algorithm>

#include "common/activations.h"
#include "cuda.h"
#include "sequential_attention.h"
#include "sequential_plan.h"
#include "sequential_tile.h"

namespace noema::cuda {

namespace {

/// Parameters of couplings at a time: 16 MB.
constexpr int64_t kMadeAtOnce = int64_t{1} << 22;
/// Blocks of one multiprocessor that a launch should have.
constexpr int kBlocksEach = 4;

/// This block's rows and its share of whatever product.
template <bool kTensor>
class SweptTile : SequentialTile<kTensor> {
    using Tile = SequentialTile<kTensor>;
    using Tile::p_, Tile::scratch_, Tile::wide_rows, Tile::rows, Tile::fill, Tile::row_at;
    using typename Tile::Rows, typename Tile::Sums;

 public:
    /// Of rows [first, end).
    __device__ __forceinline__ SweptTile(const SequentialArguments& p, int first, int end)
        : Tile(p),
          first_(first + static_cast<int>(blockIdx.x) * p.shared.tile),
          count_(min(p.shared.tile, end - first_)) {}

    __device__ __forceinline__ void lift(const float* before) const {
        const FactorRows<float> wide = wide_rows(count_);
        fill(wide, p_.c, [&](int m, int i) { return before[static_cast<int64_t>(first_ + m) * p_.c + i]; });
        multiply<FmaSums<kTileRows>>(
            wide, p_.c, p_.C, [&](int i) { return line_of(p_.input, i); },
            [&](int m, int i, float x) { *stream_at(m, i) = x + p_.input_bias[i]; });
        for (int m = static_cast<int>(threadIdx.x); blockIdx.y == 0 && m < count_; m += kSequentialThreads) {
            const int b = (first_ + m) / p_.N, n = (first_ + m) % p_.N;
            p_.failed[b * p_.failed_stride[0] + n * p_.failed_stride[1]] = 0;
        }
    }

    __device__ __forceinline__ void qkv(const SequentialLayer& w) const {
        const Rows normed = rows(count_);
        bring(w.attention_norm, normed);
        const auto line = [&](int i) {
            const int part = i / p_.C, row = i - part * p_.C;
            return line_of(part == 0 ? w.q : part == 1 ? w.k : w.v, row);
        };
        multiply<Sums>(normed, p_.C, 3 * p_.C, line,
                       [&](int m, int i, float x) { p_.qkv[static_cast<int64_t>(first_ + m) * 3 * p_.C + i] = x; });
    }

    __device__ __forceinline__ void o(const SequentialLayer& w) const {
        const Rows values = rows(count_);
        for (int head = 0; head < p_.H; ++head) {
            fill(values, p_.D, [&](int m, int i) {
                const int row = first_ + m, T = p_.position + row % p_.N + 1;
                const int64_t of = static_cast<int64_t>(row) * p_.H + head;
                return attended_scalar(p_.attended + of * p_.parts * (p_.D + 2),
                                       (T + kSequentialPart - 1) / kSequentialPart, p_.D, i);
            });
            add(values, p_.D, [&](int i) { return line_of(w.o, i, head * p_.D); });
        }
    }

    __device__ __forceinline__ void gate_up(const SequentialLayer& w) const {
        const Rows normed = rows(count_);
        bring(w.mlp_norm, normed);
        FirstWeights<Sums> none;
        multiply_lines(
            normed, p_.C, share(2 * p_.F), [&](int i) { return line_of(i % 2 ? w.up : w.gate, i / 2); }, none, scratch_,
            [&](int m, int i, float gate, float up) { inner(m)[i / 2] = silu(gate) * up; });
    }

    __device__ __forceinline__ void down(const SequentialLayer& w) const {
        const Rows values = rows(count_);
        for (int first = 0; first < p_.F; first += p_.slice) {
            const int width = min(p_.slice, p_.F - first);
            fill(values, width, [&](int m, int i) { return inner(m)[first + i]; });
            add(values, width, [&](int i) { return line_of(w.down, i, first); });
        }
    }

    /// From p.made on: of the first row of all blocks on.
    __device__ __forceinline__ void make(int begin) const {
        const FactorRows<float> normed = wide_rows(count_);
        bring(p_.norm, normed);
        multiply<FmaSums<kTileRows>>(
            normed, p_.C, p_.made_columns, [&](int i) { return line_of(p_.head, i); },
            [&](int m, int i, float x) {
                p_.made[static_cast<int64_t>(first_ - begin + m) * p_.made_columns + i] = x + p_.head_bias[i];
            });
    }

 private:
    __device__ __forceinline__ Span share(int lines) const {
        return span_of(lines, static_cast<int>(blockIdx.y), static_cast<int>(gridDim.y));
    }
    __device__ __forceinline__ float* stream_at(int m, int c) const { return p_.x[0] + row_at(first_ + m) + c; }
    __device__ __forceinline__ float* inner(int m) const {
        return p_.inner + static_cast<int64_t>(first_ + m) * p_.slices * p_.slice;
    }
    template <class R>
    __device__ __forceinline__ void bring(const float* weight, const R& to) const {
        this->norm(weight, to, [&](int m, int c) { return *reinterpret_cast<const float4*>(stream_at(m, c)); });
    }
    /// put(m, i, sum) of row m and line i.
    template <class S, class LineOf, class Put>
    __device__ __forceinline__ void multiply(const FactorRows<typename S::Factor>& factors, int K, int lines,
                                             const LineOf& line, const Put& put) const {
        FirstWeights<S> none;
        multiply_lines(factors, K, share(lines), line, none, scratch_, [&](int m, int i, float low, float high) {
            put(m, i, low);
            if (i + 1 < lines) put(m, i + 1, high);
        });
    }
    /// To the residual stream. What is added next to a scalar is added by the same thread.
    template <class LineOf>
    __device__ __forceinline__ void add(const Rows& factors, int K, const LineOf& line) const {
        multiply<Sums>(factors, K, p_.C, line, [&](int m, int i, float x) { *stream_at(m, i) += x; });
    }

    const int first_, count_;
};

#define SWEEP_KERNEL(...)   \
    template <bool kTensor> \
    __global__ void __launch_bounds__(kSequentialThreads) __VA_ARGS__

SWEEP_KERNEL(sweep_lift(const __grid_constant__ SequentialArguments p, const float* before)) {
    SweptTile<kTensor>(p, 0, p.B * p.N).lift(before);
}
SWEEP_KERNEL(sweep_qkv(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialLayer w)) {
    SweptTile<kTensor>(p, 0, p.B * p.N).qkv(w);
}
SWEEP_KERNEL(sweep_o(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialLayer w)) {
    SweptTile<kTensor>(p, 0, p.B * p.N).o(w);
}
SWEEP_KERNEL(sweep_gate_up(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialLayer w)) {
    SweptTile<kTensor>(p, 0, p.B * p.N).gate_up(w);
}
SWEEP_KERNEL(sweep_down(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialLayer w)) {
    SweptTile<kTensor>(p, 0, p.B * p.N).down(w);
}
SWEEP_KERNEL(sweep_make(const __grid_constant__ SequentialArguments p, int begin, int end)) {
    SweptTile<kTensor>(p, begin, end).make(begin);
}

#undef SWEEP_KERNEL

/// All rows' keys, turned, and values into the caches.
template <bool kTensor>
__global__ void __launch_bounds__(kSequentialThreads)
    sweep_enter(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialLayer w) {
    const int half = p.D / 2;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kSequentialThreads + threadIdx.x, pair = item % half,
                  head = item / half % p.H, row = item / half / p.H;
    if (row >= static_cast<int64_t>(p.B) * p.N) return;
    const int i = static_cast<int>(pair);
    const int64_t b = row / p.N, position = p.position + row % p.N;
    const int64_t place = (b * p.S + position) * p.C + head * p.D;
    const float* q = p.qkv + row * 3 * p.C + head * p.D;
    turn_pair<kTensor>(q + p.C, i, half, p.rope.angle(position, i), [&](int at, float x) { w.keys[place + at] = x; });
    for (const int at : {i, i + half}) w.values[place + at] = as_factor<kTensor>(q[2 * p.C + at]);
}

/// A part of the keys that a head of a row sees.
template <bool kTensor>
__global__ void __launch_bounds__(kSequentialThreads)
    sweep_attend(const __grid_constant__ SequentialArguments p, const __grid_constant__ SequentialLayer w) {
    const int part = static_cast<int>(blockIdx.x) % p.parts, head = static_cast<int>(blockIdx.x) / p.parts % p.H,
              row = static_cast<int>(blockIdx.x) / p.parts / p.H, position = p.position + row % p.N;
    if (part * kSequentialPart > position) return;
    const Shared<float2> angles = dynamic_shared<float2>(p.shared.angles, p.D / 2);
    for (int i = static_cast<int>(threadIdx.x); i < p.D / 2; i += kSequentialThreads)
        angles[i] = p.rope.angle(position, i);
    NewestQuery<kTensor>(p, w, {row, row / p.N, head}, part, position + 1)
        .run(dynamic_shared<float>(p.shared.sums, p.shared.sums_floats), angles, false);
}

// --- plan ------------------------------------------------------------------------------------------------------------

int64_t rows_of(const SequentialArguments& a) {
    return static_cast<int64_t>(a.B) * a.N;
}
/// Rows whose couplings' parameters are made at once.
int64_t made_at_once(const SequentialArguments& a) {
    return std::clamp<int64_t>(kMadeAtOnce / a.made_columns, 1, rows_of(a));
}

/// Without addresses of its memory; blocks: of couplings.
SequentialLaunch plan(const SequentialSweep& p, const Stream& stream) {
    SequentialLaunch l{.arguments = arguments_of(p.flow), .tensor = p.flow.precision == Precision::bf16};
    l.arguments.forward = p.forward;
    l.shared_bytes = fit_shared(p.flow, l.arguments, rows_of(l.arguments), stream);
    l.blocks = as_int(std::min(made_at_once(l.arguments),
                               static_cast<int64_t>(kBlocksEach) * queue_of(stream).device.multiprocessors));
    return l;
}

template <class Take>
void lay_out(const SequentialSweep& p, SequentialLaunch& l, CouplingMemory& coupling, const Take& take) {
    SequentialArguments& a = l.arguments;
    const int64_t rows = rows_of(a);
    take(a.x[0], rows * a.pitch);
    take(a.qkv, a.L ? 3 * rows * a.C : 0);
    take(a.attended, a.L ? rows * a.H * a.parts * (a.D + 2) : 0);
    take(a.inner, rows * a.slices * a.slice);
    take(a.made, made_at_once(a) * a.made_columns);
    coupling.lay_out(p.flow.head, l.blocks, made_at_once(a), take);
}

size_t workspace(const SequentialSweep& p, const Stream& stream) {
    if (p.flow.u.size() == 0) return 0;
    SequentialLaunch l = plan(p, stream);
    CouplingMemory coupling;
    size_t bytes = 0;
    lay_out(p, l, coupling, [&]<class T>(T*&, int64_t n) { bytes += workspace_bytes<T>(n); });
    return bytes + CouplingMemory::table_bytes(p.flow.head);
}

// --- run -------------------------------------------------------------------------------------------------------------

class Sweeper {
 public:
    Sweeper(const SequentialLaunch& l, const Stream& stream) : l_(l), a_(l.arguments), stream_(stream) {}

    template <bool kTensor>
    Status body(const SequentialSweep& p) const {
        NOEMA_TRY(
            product("sequential_sweep (lift)", rows_of(a_), a_.C, sweep_lift<kTensor>, a_, p.before.as<const float>()));
        for (int64_t i = 0; i < p.flow.layers; ++i)
            NOEMA_TRY(layer<kTensor>(layer_of(p.flow.blocks[i], p.flow.precision)));
        return {};
    }

    /// Rows [begin, end).
    template <bool kTensor>
    Status couple(const SequentialSweep& p, const CouplingMemory& coupling, int64_t begin, int64_t end) const {
        const SequentialRows rows{0, a_.N, as_int(begin), as_int(end)};
        NOEMA_TRY(product("sequential_sweep (make)", end - begin, a_.made_columns, sweep_make<kTensor>, a_, rows.begin,
                          rows.end));
        return coupling.with(p.flow.head.kind,
                             [&](const auto& own) { return launch_coupling(l_, own, rows, stream_); });
    }

 private:
    template <bool kTensor>
    Status layer(const SequentialLayer& w) const {
        const int64_t rows = rows_of(a_), pairs = rows * a_.H * (a_.D / 2);
        const Grid by_pair{.blocks = dim3(static_cast<unsigned>(ceil_div(pairs, kSequentialThreads))),
                           .threads = kSequentialThreads},
            by_part{.blocks = dim3(static_cast<unsigned>(rows * a_.H * a_.parts)),
                    .threads = kSequentialThreads,
                    .shared_bytes = l_.shared_bytes};
        NOEMA_TRY(product("sequential_sweep (q k v)", rows, 3 * a_.C, sweep_qkv<kTensor>, a_, w));
        NOEMA_TRY(launch("sequential_sweep (keys)", stream_, by_pair, sweep_enter<kTensor>, a_, w));
        NOEMA_TRY(launch("sequential_sweep (attention)", stream_, by_part, sweep_attend<kTensor>, a_, w));
        NOEMA_TRY(product("sequential_sweep (o)", rows, a_.C, sweep_o<kTensor>, a_, w));
        NOEMA_TRY(product("sequential_sweep (gate up)", rows, 2 * a_.F, sweep_gate_up<kTensor>, a_, w));
        return product("sequential_sweep (down)", rows, a_.C, sweep_down<kTensor>, a_, w);
    }

    /// A product's kernel: blocks for all rows, and so many more that share the columns as keep the device busy.
    template <class... P, class... A>
    Status product(const char* name, int64_t rows, int64_t columns, void (*kernel)(P...), const A&... arguments) const {
        const int64_t tiles = ceil_div(rows, a_.shared.tile),
                      wanted = static_cast<int64_t>(kBlocksEach) * queue_of(stream_).device.multiprocessors;
        const int64_t splits = std::clamp<int64_t>(ceil_div(wanted, tiles), 1, ceil_div(columns, kGroupLines));
        return launch(
            name, stream_,
            {.blocks = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(std::min(splits, kMostGridRows))),
             .threads = kSequentialThreads,
             .shared_bytes = l_.shared_bytes},
            kernel, arguments...);
    }

    const SequentialLaunch& l_;
    const SequentialArguments& a_;
    const Stream& stream_;
};

template <bool kTensor>
Status sweep_with(const SequentialSweep& p, const SequentialLaunch& l, const CouplingMemory& coupling,
                  const Stream& stream) {
    const Sweeper sweeper(l, stream);
    const int64_t rows = rows_of(l.arguments), at_once = made_at_once(l.arguments);
    NOEMA_TRY(sweeper.body<kTensor>(p));
    for (int64_t r = 0; r < rows; r += at_once)
        NOEMA_TRY(sweeper.couple<kTensor>(p, coupling, r, std::min(rows, r + at_once)));
    return {};
}

Status run(const SequentialSweep& p, const Stream& stream, Workspace memory) {
    if (p.flow.u.size() == 0) return {};
    SequentialLaunch l = plan(p, stream);
    NOEMA_TRY(check_shared("sequential_sweep", l.arguments, l.shared_bytes, stream));
    CouplingMemory coupling;
    lay_out(p, l, coupling, [&]<class T>(T*& part, int64_t n) { part = memory.take<std::remove_const_t<T>>(n); });
    NOEMA_TRY(coupling.fill(p.flow.head, stream, memory));
    NOEMA_TRY(round_given("sequential_sweep (given)", p.flow, l.arguments, stream));
    return l.tensor ? sweep_with<true>(p, l, coupling, stream) : sweep_with<false>(p, l, coupling, stream);
}

}  // namespace

Op<SequentialSweep> sequential_sweep_entry() {
    return {run, workspace};
}

}  // namespace noema::cuda
