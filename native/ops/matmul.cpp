#include <cstdint>

#include "front_door.h"

namespace noema {

namespace {

/// Bytes that a matrix spans, from its first to behind its last element.
int64_t span_bytes(const View& v) {
    return ((v.shape[0] - 1) * v.stride[0] + v.shape[1]) * static_cast<int64_t>(dtype_size(v.dtype));
}

/// Whether two matrices share a byte. Windows of columns of one buffer (equal row pitch) lie interleaved and are told
/// apart; other layouts that interleave are taken as overlapping.
bool overlap(const View& x, const View& y) {
    if (x.size() == 0 || y.size() == 0 || !x.data || !y.data) return false;
    const int64_t distance =
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(y.data) - reinterpret_cast<uintptr_t>(x.data));
    if (distance >= span_bytes(x) || -distance >= span_bytes(y)) return false;
    const int64_t size_x = static_cast<int64_t>(dtype_size(x.dtype)),
                  size_y = static_cast<int64_t>(dtype_size(y.dtype));
    const int64_t pitch = x.stride[0] * size_x;
    if (pitch <= 0 || pitch != y.stride[0] * size_y) return true;
    const int64_t column = (distance % pitch + pitch) % pitch;
    return column < x.shape[1] * size_x || column + y.shape[1] * size_y > pitch;
}

bool same_place(const View& x, const View& y) {
    return x.data == y.data && x.stride[0] == y.stride[0];
}

/// Rows of what is written to must not run into each other.
bool rows_apart(const View& v) {
    return v.rank != 2 || v.shape[0] <= 1 || v.stride[0] >= v.shape[1];
}

bool aligned(const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 64 == 0;
}

}  // namespace

Status matmul(const Matmul& p, Context& context) {
    const int64_t M = dim(p.a, p.transpose_a ? 1 : 0), K = dim(p.a, p.transpose_a ? 0 : 1);
    const int64_t N = dim(p.b, p.transpose_b ? 0 : 1);
    FrontDoor door("matmul", context);
    if (p.transpose_a)
        door.stored("a", p.a, {K, M});
    else
        door.stored("a", p.a, {M, K});
    if (p.transpose_b)
        door.stored("b", p.b, {N, K});
    else
        door.stored("b", p.b, {K, N});
    return door.real("c", p.c, {M, N})
        .optional_real("bias", p.bias, {N})
        .optional_real("gate", p.gate, {M, N})
        .optional_real("residual", p.residual, {M, N})
        .that(rows_apart(p.c), "c", "has rows that overlap each other")
        .that(!overlap(p.c, p.a), "c", "may not overlap a")
        .that(!overlap(p.c, p.b), "c", "may not overlap b")
        .that(!p.gate || !overlap(p.c, p.gate) || same_place(p.c, p.gate), "gate",
              "may be c but not overlap it in part")
        .that(!p.residual || !overlap(p.c, p.residual) || same_place(p.c, p.residual), "residual",
              "may be c but not overlap it in part")
        .that(aligned(p.packed_b), "packed_b", "must be 64-byte aligned")
        .call(&OpTable::matmul, p);
}

Status matmul_pack(const MatmulPack& p, Context& context) {
    const size_t bytes = context.backend->packed_bytes(p.weight, p.precision, p.transposed);
    return FrontDoor("matmul_pack", context)
        .stored("weight", p.weight, {dim(p.weight, 0), dim(p.weight, 1)})
        .that(p.packed || bytes == 0 || (context.arena && context.arena->measuring()), "packed", "has no memory")
        .that(aligned(p.packed), "packed", "must be 64-byte aligned")
        .call(&OpTable::matmul_pack, p);
}

}  // namespace noema
