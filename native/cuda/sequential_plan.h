// What the host makes of a SequentialInverse before it launches kernels: shapes, shared memory, the couplings' memory.
#pragma once

#include "common/launch.h"
#include "sequential_inverse.h"

namespace noema::cuda {

inline int as_int(int64_t n) {
    return static_cast<int>(n);
}

/// Shapes and what is given; without teams, shared memory and the addresses of memory that is to be taken.
SequentialArguments arguments_of(const SequentialInverse& p);
SequentialLayer layer_of(const InverseBlock& w, Precision precision);

/// Shared memory for as many of `rows` rows at a time as one mma has and a block has room for; its size.
size_t fit_shared(const SequentialInverse& p, SequentialArguments& a, int64_t rows, const Stream& stream);
/// unsupported where that is more than a block can have: one row alone is too wide.
Status check_shared(const char* op, const SequentialArguments& a, size_t bytes, const Stream& stream);

/// A coupling's own memory.
struct CouplingMemory {
    SequentialMixtureCdf cdf = {};
    SequentialRosenblatt rosenblatt = {};

    /// take(pointer, count); blocks: of the kernel that runs the coupling; rows: that it runs on at once.
    template <class Take>
    void lay_out(const InverseHead& head, int64_t blocks, int64_t rows, const Take& take) {
        if (head.kind == CouplingKind::mixture_cdf) take(cdf.parameters, blocks * 3 * head.K);
        if (head.kind != CouplingKind::mixture_rosenblatt) return;
        rosenblatt.length = search_length(head.mean.shape[0]);
        const int64_t n = std::min(blocks, rows * head.P) * rosenblatt.length;
        take(rosenblatt.log_weight, n);
        take(rosenblatt.weight, n);
        take(rosenblatt.index, n);
    }
    /// f(the arguments of a coupling of that kind).
    template <class F>
    Status with(CouplingKind kind, const F& f) const {
        switch (kind) {
            case CouplingKind::affine: return f(SequentialAffine());
            case CouplingKind::mixture_cdf: return f(cdf);
            case CouplingKind::mixture_rosenblatt: break;
        }
        return f(rosenblatt);
    }
    static size_t table_bytes(const InverseHead& head);
    /// What is not memory, and the components' table.
    Status fill(const InverseHead& head, const Stream& stream, Workspace& memory);
};

/// Products in bf16 read keys and values rounded; those that are given are rounded once, those to come as they are written.
Status round_given(const char* op, const SequentialInverse& p, const SequentialArguments& a, const Stream& stream);

}  // namespace noema::cuda
