#include <cmath>

#include "front_door.h"

namespace noema {

namespace {

/// The checks that forward and backward share.
FrontDoor& shared_checks(FrontDoor& door, const View& q, const View& k, const View& v, float scale) {
    const int64_t B = dim(q, 0), T = dim(q, 1), H = dim(q, 2), D = dim(q, 3), M = dim(k, 1);
    return door.real("q", q, {B, T, H, D})
        .real("k", k, {B, M, H, D})
        .real("v", v, {B, M, H, D})
        .that(D >= 1 && D <= kWidestHead, "q", "must have heads 1 to 256 wide")
        .that(H >= 1, "q", "must have a head")
        .that(T <= int64_t{1} << 30, "q", "may have at most 2^30 positions")
        .that(M >= 1 && M <= kMostLatents, "k", "must have 1 to 64 latents")
        .that(scale >= 1e-30f && scale <= 1e30f, "scale", "must lie between 1e-30 and 1e30");
}

bool same(const View& a, const View& b) {
    return a.data && a.data == b.data;
}

}  // namespace

Status cross_attention(const CrossAttention& p, Context& context) {
    const int64_t B = dim(p.q, 0), T = dim(p.q, 1), H = dim(p.q, 2), D = dim(p.q, 3), M = dim(p.k, 1);
    FrontDoor door("cross_attention", context);
    shared_checks(door, p.q, p.k, p.v, p.scale)
        .real("out", p.out, {B, T, H, D})
        .optional_real("weights", p.weights, {B, T, H, M})
        .that(!same(p.out, p.q) && !same(p.out, p.k) && !same(p.out, p.v), "out", "may not be q, k or v");
    for (const View* other : {&p.q, &p.k, &p.v, &p.out})
        door.that(!same(p.weights, *other), "weights", "may not be q, k, v or out");
    return door.call(&OpTable::cross_attention, p);
}

Status cross_attention_backward(const CrossAttentionBackward& p, Context& context) {
    const int64_t B = dim(p.q, 0), T = dim(p.q, 1), H = dim(p.q, 2), D = dim(p.q, 3), M = dim(p.k, 1);
    FrontDoor door("cross_attention_backward", context);
    shared_checks(door, p.q, p.k, p.v, p.scale)
        .real("d_out", p.d_out, {B, T, H, D})
        .optional_real("d_q", p.d_q, {B, T, H, D})
        .optional_real("d_k", p.d_k, {B, M, H, D})
        .optional_real("d_v", p.d_v, {B, M, H, D})
        .that(!same(p.d_q, p.d_k) && !same(p.d_q, p.d_v) && !same(p.d_k, p.d_v), "d_q", "(or d_k, d_v) is given twice");
    for (const View* d : {&p.d_q, &p.d_k, &p.d_v})
        for (const View* input : {&p.q, &p.k, &p.v, &p.d_out})
            door.that(!same(*d, *input), "d_q", "(or d_k, d_v) may not be an input");
    return door.call(&OpTable::cross_attention_backward, p);
}

}  // namespace noema
