// What every front door shares: checks that name op, argument and both shapes, then the call into the backend's table.
#pragma once

#include <cmath>
#include <initializer_list>

#include "noema/backend.h"

namespace noema {

class FrontDoor {
 public:
    FrontDoor(const char* op, Context& context) : op_(op), context_(context) {}

    /// A tensor of exactly this shape. Dtypes: `real` f32 (f64 where the backend computes in double), `stored` also
    /// bf16 and f16.
    FrontDoor& real(const char* name, const View& v, std::initializer_list<int64_t> shape);
    /// f32 or f64, whatever the backend computes in.
    FrontDoor& wide(const char* name, const View& v, std::initializer_list<int64_t> shape);
    FrontDoor& stored(const char* name, const View& v, std::initializer_list<int64_t> shape);
    FrontDoor& typed(const char* name, const View& v, DType dtype, std::initializer_list<int64_t> shape);
    /// The same, or absent.
    FrontDoor& optional_real(const char* name, const View& v, std::initializer_list<int64_t> shape);
    FrontDoor& optional_wide(const char* name, const View& v, std::initializer_list<int64_t> shape);
    FrontDoor& optional_typed(const char* name, const View& v, DType dtype, std::initializer_list<int64_t> shape);
    /// Any other demand: "op: argument expectation".
    FrontDoor& that(bool holds, const char* name, const char* expectation);
    /// Every id of a host tensor lies in [low, high); skipped while measuring.
    FrontDoor& ids(const char* name, const View& v, int64_t low, int64_t high);

    bool failed() const { return !status_.ok(); }
    bool measuring() const { return context_.replaying || (context_.arena && context_.arena->measuring()); }

    /// Runs the backend's function if every check held.
    template <class P>
    Status call(Op<P> OpTable::*entry, const P& parameters) {
        if (failed()) return status_;
        const Op<P>& op = context_.backend->ops.*entry;
        if (!op.run) return declined();
        const size_t bytes = op.workspace ? op.workspace(parameters, context_.stream) : 0;
        if (!bytes && !context_.arena) return op.run(parameters, context_.stream, {});
        if (!context_.arena) return no_arena();
        ArenaScope scope(*context_.arena);
        Workspace w{static_cast<std::byte*>(bytes ? context_.arena->take(bytes) : nullptr), bytes};
        if (measuring()) return {};
        if (context_.arena->exhausted()) return exhausted();
        return op.run(parameters, context_.stream, w);
    }

 private:
    FrontDoor& shaped(const char* name, const View& v, std::initializer_list<int64_t> shape, bool dtype_ok,
                      const char* dtypes);
    Status declined() const;
    Status no_arena() const;
    Status exhausted() const;

    const char* op_;
    Context& context_;
    Status status_;
};

/// Length of axis i, or 0 for a view of lower rank (the shape check then reports it).
inline int64_t dim(const View& v, int i) {
    return i < v.rank ? v.shape[i] : 0;
}

/// How many sequences a matrix of stacked sequences holds; the last may be shorter.
inline int64_t sequences(int64_t rows, int64_t rows_per_sequence) {
    return rows_per_sequence > 0 ? rows / rows_per_sequence + (rows % rows_per_sequence != 0) : 0;
}

/// A power of two, or none.
inline bool is_grid(double grid) {
    int exponent;
    return grid == 0 || (grid > 0 && std::frexp(grid, &exponent) == 0.5);
}
constexpr const char* kGridExpected = "must be 0 or a power of two";

/// One type for two tensors of which the second may be absent.
inline bool same_type(const View& a, const View& b) {
    return !b || a.dtype == b.dtype;
}

/// Two tensors of one shape that start at different places, or are one tensor: what element-wise work in place needs.
inline bool apart_or_same(const View& a, const View& b) {
    if (a.data != b.data || !a.data) return true;
    for (int i = 0; i < a.rank; ++i)
        if (a.shape[i] > 1 && a.stride[i] != b.stride[i]) return false;
    return true;
}

}  // namespace noema
