// One position of a flow's body by all blocks of the persistent kernel.
#pragma once

#include "common/activations.h"
#include "sequential_attention.h"
#include "sequential_tile.h"

namespace noema::cuda {

template <bool kTensor>
class SequentialBody : SequentialTile<kTensor> {
    using Tile = SequentialTile<kTensor>;
    using Tile::p_, Tile::scratch_, Tile::wide_rows, Tile::rows, Tile::fill, Tile::row_at;
    using typename Tile::Rows, typename Tile::Sums;

 public:
    __device__ __forceinline__ explicit SequentialBody(const SequentialArguments& p)
        : Tile(p), angles_(dynamic_shared<float2>(p.shared.angles, p.D / 2)) {}

    /// What the head makes of position n, for the coupling.
    __device__ __forceinline__ void run(int n) {
        for (int i = static_cast<int>(threadIdx.x); i < p_.D / 2; i += kSequentialThreads)
            angles_[i] = p_.rope.angle(p_.position + n, i);
        lift(n);
        x_ = 0, sums_ = nullptr, summands_ = 0;
        for (int l = 0; l < p_.L; ++l) {
            attention(p_.layers[l], p_.position + n + 1);
            mlp(p_.layers[l], l);
        }
        make();
    }
    /// All blocks of the grid; ahead(): what needs none of the others.
    template <class Ahead>
    __device__ __forceinline__ void meet(const Ahead& ahead) const {
        meet_at(p_.counters, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x), ahead);
    }

 private:
    struct Unit {
        int first, rows;  // sequences
        int which;        // head, or slice of F
        bool begins;      // the first of its slice of sequences
    };

    template <class Ahead>
    static __device__ __forceinline__ void meet_at(unsigned int* counter, int blocks, int rank, const Ahead& ahead) {
        const unsigned int before = arrive_at(counter, static_cast<unsigned int>(blocks), rank == 0);
        ahead();
        wait_at(counter, before);
    }
    template <class Ahead>
    __device__ __forceinline__ void meet_team(const Teams& t, int kind, const Ahead& ahead) const {
        if (t.mine() >= t.count || t.size == 1) {
            ahead();
            return __syncthreads();
        }
        const int at = 1 + kind * static_cast<int>(gridDim.x) + t.mine();
        meet_at(p_.counters + at * SequentialArguments::kCounterStride, t.size, t.rank(), ahead);
    }

    /// f(unit) for this team's units.
    template <class F>
    __device__ __forceinline__ void each_unit(const Teams& t, int in_slice, const F& f) const {
        if (t.mine() >= t.count) return;
        for (int unit = t.mine(); unit < t.units; unit += t.count) {
            const int first = unit / in_slice * t.rows, which = unit % in_slice;
            f(Unit{first, min(t.rows, p_.B - first), which, which == 0});
        }
    }

    // --- the residual stream -----------------------------------------------------------------------------------------

    /// rms_norm of the residual stream of some sequences, with what has been added to it since it was last written. keep: writes it.
    template <class R>
    __device__ __forceinline__ void bring(int first, bool keep, const float* weight, const R& to) const {
        this->norm(weight, to, [&](int m, int c) {
            const float4 x = stream_at(first + m, c);
            if (keep) *reinterpret_cast<float4*>(p_.x[1 - x_] + row_at(first + m) + c) = x;
            return x;
        });
    }
    /// Four neighbours of the stream: all that is to be added is asked for at once.
    __device__ __forceinline__ float4 stream_at(int b, int c) const {
        constexpr int kAtOnce = 8;
        const auto quad = [&](const float* from) {
            return __ldcg(reinterpret_cast<const float4*>(from + row_at(b) + c));
        };
        const int64_t apart = row_at(p_.B);
        float4 x = quad(p_.x[x_]);
        for (int s = 0; s < summands_; s += kAtOnce) {
            float4 y[kAtOnce] = {};
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (s + j < summands_) y[j] = quad(sums_ + (s + j) * apart);
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (s + j < summands_) x = make_float4(x.x + y[j].x, x.y + y[j].y, x.z + y[j].z, x.w + y[j].w);
        }
        return x;
    }
    /// ahead() of a product: its first weights into registers, and as many as there are into the second level cache.
    template <class LineOf>
    __device__ __forceinline__ void fetch(const Span& span, int K, const LineOf& line_at) {
        first_.fetch(span, K, line_at);
        prefetch_lines(span, K, line_at);
    }

    // --- steps -------------------------------------------------------------------------------------------------------

    __device__ __forceinline__ Span share(int lines) const {
        return span_of(lines, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
    }
    /// None for a block that is in no team.
    __device__ __forceinline__ Span share(int lines, const Teams& t) const {
        return t.mine() < t.count ? span_of(lines, t.rank(), t.size) : Span{0, 0};
    }

    __device__ __forceinline__ void lift(int n) {
        const auto line = [&](int i) { return line_of(p_.input, i); };
        FirstWeights<FmaSums<kTileRows>> none;
        for (int b = 0; b < p_.B; b += p_.shared.tile) {
            const FactorRows<float> before = wide_rows(min(p_.shared.tile, p_.B - b));
            fill(before, p_.c, [&](int m, int i) {
                return n ? static_cast<float>(__ldcg(p_.h + p_.place(b + m, n - 1) + i)) : p_.start[i];
            });
            multiply_lines(before, p_.c, share(p_.C), line, none, scratch_, [&](int m, int i, float low, float high) {
                float* to = p_.x[0] + row_at(b + m) + i;
                to[0] = low + p_.input_bias[i];
                if (i + 1 < p_.C) to[1] = high + p_.input_bias[i + 1];
            });
        }
        if (blockIdx.x == 0)
            for (int b = static_cast<int>(threadIdx.x); b < p_.B; b += kSequentialThreads)
                p_.failed[b * p_.failed_stride[0] + n * p_.failed_stride[1]] = 0;
        meet([&] {
            if (p_.L > 0)
                fetch_qkv(p_.layers[0]);
            else
                first_.clear();
        });
    }

    /// Line i of a head's q, k and v.
    __device__ __forceinline__ Line qkv_line(const SequentialLayer& w, int head, int i) const {
        const int part = i / p_.D, row = head * p_.D + i - part * p_.D;
        return line_of(part == 0 ? w.q : part == 1 ? w.k : w.v, row);
    }
    __device__ __forceinline__ void fetch_qkv(const SequentialLayer& w) {
        const Teams& t = p_.attention;
        fetch(share(3 * p_.D, t), p_.C, [&](int i) { return qkv_line(w, t.mine() % p_.H, i); });
    }

    __device__ __forceinline__ void attention(const SequentialLayer& w, int T) {
        const Teams& t = p_.attention;
        int brought = -1;
        each_unit(t, p_.H, [&](const Unit& u) {
            const Rows normed = rows(u.rows);
            if (u.first != brought) {
                bring(u.first, u.begins && t.rank() == 0 && summands_ > 0, w.attention_norm, normed);
                brought = u.first;
            }
            multiply_lines(
                normed, p_.C, share(3 * p_.D, t), [&](int i) { return qkv_line(w, u.which, i); }, first_, scratch_,
                [&](int m, int i, float low, float high) {
                    float* to = p_.qkv + static_cast<int64_t>(u.first + m) * 3 * p_.C + u.which * p_.D;
                    const auto place = [&](int k) { return k / p_.D * p_.C + k % p_.D; };
                    to[place(i)] = low;
                    if (i + 1 < 3 * p_.D) to[place(i + 1)] = high;
                });
        });
        const auto o_line = [&](int head, int i) { return line_of(w.o, i, head * p_.D); };
        meet_team(t, 0,
                  [&] { prefetch_lines(share(p_.C, t), p_.D, [&](int i) { return o_line(t.mine() % p_.H, i); }); });
        const int parts = (T + kSequentialPart - 1) / kSequentialPart;
        each_unit(t, p_.H, [&](const Unit& u) {
            for (int task = t.rank(); task < u.rows * parts; task += t.size) {
                const int part = task % parts;
                const int b = u.first + task / parts;
                NewestQuery<kTensor>(p_, w, {b, b, u.which}, part, T).run(scratch_, angles_, part == parts - 1);
            }
        });
        meet_team(t, 0, [&] { fetch(share(p_.C, t), p_.D, [&](int i) { return o_line(t.mine() % p_.H, i); }); });
        each_unit(t, p_.H, [&](const Unit& u) {
            const Rows values = rows(u.rows);
            fill(values, p_.D, [&](int m, int i) {
                const int64_t row = static_cast<int64_t>(u.first + m) * p_.H + u.which;
                return attended_scalar(p_.attended + row * p_.parts * (p_.D + 2), parts, p_.D, i);
            });
            add(values, p_.D, u, p_.head_sums, [&](int i) { return o_line(u.which, i); });
        });
        after(p_.head_sums, p_.H);
        meet([&] { fetch_inner(w); });
    }

    /// sums[which][sequence] = the rows times C lines.
    template <class LineOf>
    __device__ __forceinline__ void add(const Rows& rows, int K, const Unit& u, float* sums, const LineOf& line) {
        const Teams& t = sums == p_.head_sums ? p_.attention : p_.mlp;
        multiply_lines(rows, K, share(p_.C, t), line, first_, scratch_, [&](int m, int i, float low, float high) {
            float* to = sums + u.which * row_at(p_.B) + row_at(u.first + m) + i;
            to[0] = low;
            if (i + 1 < p_.C) to[1] = high;
        });
    }
    /// From now on the stream is what the last bring() left, and these sums.
    __device__ __forceinline__ void after(const float* sums, int count) {
        if (summands_ > 0) x_ = 1 - x_;
        sums_ = sums;
        summands_ = count;
    }

    /// Lines of gate and up in turn.
    __device__ __forceinline__ Line inner_line(const SequentialLayer& w, int slice, int i) const {
        return line_of(i % 2 ? w.up : w.gate, slice * p_.slice + i / 2);
    }
    __device__ __forceinline__ int width_of(int slice) const {
        return min(p_.slice, p_.F - slice * p_.slice);
    }
    __device__ __forceinline__ void fetch_inner(const SequentialLayer& w) {
        const int slice = p_.mlp.mine() % p_.slices;
        fetch(share(2 * width_of(slice), p_.mlp), p_.C, [&](int i) { return inner_line(w, slice, i); });
    }

    __device__ __forceinline__ void mlp(const SequentialLayer& w, int l) {
        const Teams& t = p_.mlp;
        const int64_t pitch = static_cast<int64_t>(p_.slices) * p_.slice;
        int brought = -1;
        each_unit(t, p_.slices, [&](const Unit& u) {
            const Rows normed = rows(u.rows);
            if (u.first != brought) {
                bring(u.first, u.begins && t.rank() == 0, w.mlp_norm, normed);
                brought = u.first;
            }
            multiply_lines(
                normed, p_.C, share(2 * width_of(u.which), t), [&](int i) { return inner_line(w, u.which, i); }, first_,
                scratch_,
                [&](int m, int i, float gate, float up) {
                    p_.inner[(u.first + m) * pitch + u.which * p_.slice + i / 2] = silu(gate) * up;
                });
        });
        const auto down_line = [&](int slice, int i) { return line_of(w.down, i, slice * p_.slice); };
        meet_team(t, 1, [&] {
            const int slice = t.mine() % p_.slices;
            fetch(share(p_.C, t), width_of(slice), [&](int i) { return down_line(slice, i); });
        });
        each_unit(t, p_.slices, [&](const Unit& u) {
            const Rows inner = rows(u.rows);
            const int width = width_of(u.which);
            fill(inner, width,
                 [&](int m, int i) { return __ldcg(p_.inner + (u.first + m) * pitch + u.which * p_.slice + i); });
            add(inner, width, u, p_.slice_sums, [&](int i) { return down_line(u.which, i); });
        });
        after(p_.slice_sums, p_.slices);
        meet([&] {
            if (l + 1 < p_.L)
                fetch_qkv(p_.layers[l + 1]);
            else
                prefetch_lines(share(p_.made_columns), p_.C, [&](int i) { return line_of(p_.head, i); });
        });
    }

    __device__ __forceinline__ void make() {
        const auto line = [&](int i) { return line_of(p_.head, i); };
        FirstWeights<FmaSums<kTileRows>> none;
        for (int b = 0; b < p_.B; b += p_.shared.tile) {
            const FactorRows<float> normed = wide_rows(min(p_.shared.tile, p_.B - b));
            bring(b, false, p_.norm, normed);
            multiply_lines(normed, p_.C, share(p_.made_columns), line, none, scratch_,
                           [&](int m, int i, float low, float high) {
                               float* to = p_.made + static_cast<int64_t>(b + m) * p_.made_columns + i;
                               to[0] = low + p_.head_bias[i];
                               if (i + 1 < p_.made_columns) to[1] = high + p_.head_bias[i + 1];
                           });
        }
        meet([&] { prefetch_lines(share(p_.C), p_.c, [&](int i) { return line_of(p_.input, i); }); });
    }

    const Shared<float2> angles_;
    int x_ = 0, summands_ = 0;  // which of p.x is the residual stream, before `summands_` sums
    const float* sums_ = nullptr;
    FirstWeights<Sums> first_;
};

/// The persistent kernel: every position, its body and its coupling. Coupling: made of its arguments, run(p, n) by all blocks.
template <bool kTensor, class Coupling>
__global__ void __launch_bounds__(kSequentialThreads, 1)
    sequential_positions(const __grid_constant__ SequentialArguments p,
                         const __grid_constant__ typename Coupling::Arguments a) {
    SequentialBody<kTensor> body(p);
    for (int n = p.first; n < p.last; ++n) {
        body.run(n);
        Coupling::run(p, a, SequentialRows{n, 1, 0, p.B});
        if (n + 1 < p.last) body.meet([] {});
    }
}

/// The coupling alone.
template <class Coupling>
__global__ void __launch_bounds__(kSequentialThreads, 1)
    couple_rows(const __grid_constant__ SequentialArguments p, const __grid_constant__ typename Coupling::Arguments a,
                SequentialRows rows) {
    Coupling::run(p, a, rows);
}

template <class Coupling>
Status launch_positions(const SequentialLaunch& launched, const typename Coupling::Arguments& a, const Stream& stream) {
    return launch("sequential_inverse", stream,
                  {.blocks = dim3(static_cast<unsigned>(launched.blocks)),
                   .threads = kSequentialThreads,
                   .shared_bytes = launched.shared_bytes,
                   .cooperative = true},
                  launched.tensor ? sequential_positions<true, Coupling> : sequential_positions<false, Coupling>,
                  launched.arguments, a);
}

template <class Coupling>
Status launch_rows(const SequentialLaunch& launched, const typename Coupling::Arguments& a, const SequentialRows& rows,
                   const Stream& stream) {
    return launch("sequential_sweep (coupling)", stream,
                  {.blocks = dim3(static_cast<unsigned>(launched.blocks)),
                   .threads = kSequentialThreads,
                   .shared_bytes = launched.shared_bytes},
                  couple_rows<Coupling>, launched.arguments, a, rows);
}

}  // namespace noema::cuda
