// What the files of sequential_inverse share: the arguments of its persistent kernel. sequential_inverse.cu says how the kernel works.
#pragma once

#include "common/component_table.h"
#include "common/operand.h"
#include "common/rope.h"
#include "noema/ops/sequential_inverse.h"
#include "sequential_product.h"

namespace noema::cuda {

/// A block of the transformer, in device memory.
struct SequentialLayer {
    Operand q, k, v, o, gate, up, down;
    const float *attention_norm, *mlp_norm;
    float *keys, *values;  // [B,S,H,D]
};

/// Queries meet keys in parts of so many, a warp's share of which is one key per lane.
constexpr int kSequentialPart = 32 * kSequentialWarps;

/// Units of work of one kind, (slice of sequences, head or slice of F), dealt out to teams of neighbouring blocks. Only who computes
/// what depends on these numbers, and on the number of blocks.
struct Teams {
    int units, count, size;  // teams, blocks of one
    int rows;                // sequences of a slice

    /// This block's; a block that is in none has no units.
    __device__ __forceinline__ int mine() const { return static_cast<int>(blockIdx.x) / size; }
    __device__ __forceinline__ int rank() const { return static_cast<int>(blockIdx.x) % size; }
};

/// Byte offsets into the block's dynamic shared memory.
struct SequentialShared {
    int state;   // [tile, state_pitch] f32: the residual stream, factors of f32 products
    int narrow;  // [tile, narrow_pitch] bf16: factors of the blocks' products in bf16
    int sums;    // kSumsBytes at least: of a product; attention's scalars
    int angles;  // [D/2] float2
    int state_pitch, narrow_pitch, sums_floats, tile;
};

struct SequentialArguments {
    const SequentialLayer* layers;  // device memory
    int L, B, N, c, C, H, D, F, S;
    int slice, slices;  // of F; how many
    Operand input;
    const float *start, *input_bias, *norm;
    Operand head;  // what makes the coupling's parameters
    const float* head_bias;
    int made_columns;
    double *u, *h;         // [B,N,c]
    const uint8_t* fixed;  // may be null
    int32_t* failed;
    int64_t fixed_stride[2], failed_stride[2];
    double grid;
    RopeFrequencies rope;
    float epsilon, scale;       // scale: of scores, in powers of two
    int position, first, last;  // positions [first, last) of N in this launch
    bool forward;               // of sequential_sweep alone
    SequentialShared shared;
    Teams attention, mlp;

    // Memory that blocks share. Rows of C have `pitch` floats.
    int pitch, parts;               // parts: of keys, at most
    float* x[2];                    // [B,pitch] the residual stream, as it was before the sums that follow it
    float *head_sums, *slice_sums;  // [H,B,pitch], [slices,B,pitch]: what heads and slices add to it
    float* qkv;                     // [B,3C]
    float* attended;                // [B,H,parts,D + 2]: values, largest score, sum of weights
    float* inner;                   // [B,slices * slice]
    float* made;                    // [B,made_columns], of the first row of those that are treated on
    unsigned int* counters;         // kCounterStride apart: the grid's, then each team's of both kinds

    static constexpr int kCounterStride = 32;
    static constexpr int64_t counters_of(int64_t blocks) { return (1 + 2 * blocks) * kCounterStride; }
    __device__ __forceinline__ bool is_fixed(int b, int n) const {
        return fixed && fixed[b * fixed_stride[0] + n * fixed_stride[1]];
    }
    __device__ __forceinline__ int64_t place(int b, int n) const { return (static_cast<int64_t>(b) * N + n) * c; }
};

/// Rows that a coupling treats at once, [begin, end) of B x count: sequences at a position of their own each, sequence by sequence.
struct SequentialRows {
    int first, count;  // positions
    int begin, end;

    __device__ __forceinline__ int sequence(int row) const { return row / count; }
    __device__ __forceinline__ int position(int row) const { return first + row % count; }
};

/// Of one call: everything but `first` and `last`. blocks: of every launch; the coupling's own shared memory is in shared_bytes.
struct SequentialLaunch {
    SequentialArguments arguments;
    int blocks;
    size_t shared_bytes;
    bool tensor;  // the blocks' products are bf16
};

/// What couplings need beside that.
struct SequentialMixtureCdf {
    Operand features, out;
    const float *embed, *embed_bias, *out_bias;
    float* parameters;  // [blocks,3K]
    int E, M, K;
};
struct SequentialRosenblatt {
    ComponentTable table;
    double *log_weight, *weight;  // [blocks,length]
    int32_t* index;               // likewise
    int64_t length;
    int P;
    bool apart;  // searches are launches of their own
};

/// Whether searches of K components are launches of their own, and how long a block's list is (sequential_mixture_rosenblatt.cu).
bool searches_apart(int64_t K);
int64_t search_length(int64_t K);

/// Without arguments.
struct SequentialAffine {};

// The persistent kernel with each coupling (sequential_affine.cu and so on), on the positions that the arguments name.
Status launch_sequential(const SequentialLaunch&, const SequentialAffine&, const Stream&);
Status launch_sequential(const SequentialLaunch&, const SequentialMixtureCdf&, const Stream&);
Status launch_sequential(const SequentialLaunch&, const SequentialRosenblatt&, const Stream&);

// The couplings alone, on rows whose parameters are there.
Status launch_coupling(const SequentialLaunch&, const SequentialAffine&, const SequentialRows&, const Stream&);
Status launch_coupling(const SequentialLaunch&, const SequentialMixtureCdf&, const SequentialRows&, const Stream&);
Status launch_coupling(const SequentialLaunch&, const SequentialRosenblatt&, const SequentialRows&, const Stream&);

}  // namespace noema::cuda
