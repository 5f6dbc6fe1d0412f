#include <cmath>

#include "front_door.h"

namespace noema {

namespace {

// Positions are counted in 32 bits inside the kernels.
constexpr int64_t kLongest = int64_t{1} << 30;

/// The checks that forward and backward share.
FrontDoor& shared_checks(FrontDoor& door, const View& q, const View& k, const View& v) {
    const int64_t B = dim(q, 0), Tq = dim(q, 1), H = dim(q, 2), D = dim(q, 3), Tk = dim(k, 1), Hkv = dim(k, 2);
    return door.real("q", q, {B, Tq, H, D})
        .real("k", k, {B, Tk, Hkv, D})
        .real("v", v, {B, Tk, Hkv, D})
        .that(D >= 1 && D <= kWidestHead, "q", "must have heads 1 to 256 wide")
        .that(H >= 1 && Hkv >= 1 && H % Hkv == 0, "k", "must have a number of heads that divides q's")
        .that(Tq <= kLongest && Tk <= kLongest, "q", "and k may have at most 2^30 positions");
}

FrontDoor& mask_checks(FrontDoor& door, const AttentionMask& mask, int64_t B, int64_t Tk) {
    door.optional_typed("key_start", mask.key_start, DType::i32, {B})
        .optional_typed("key_end", mask.key_end, DType::i32, {B})
        .that(mask.query_offset >= 0 && mask.query_offset <= kLongest, "query_offset", "must be 0 to 2^30")
        .that(mask.window >= 0, "window", "may not be negative")
        .that(mask.window == 0 || mask.causal, "window", "needs causal");
    if (mask.key_start) door.ids("key_start", mask.key_start, 0, Tk + 1);
    if (mask.key_end) door.ids("key_end", mask.key_end, 0, Tk + 1);
    return door;
}

bool scale_ok(float scale) {
    return scale >= 1e-30f && scale <= 1e30f;
}

/// Two views that start at the same element, which is how one passes a tensor twice.
bool same(const View& a, const View& b) {
    return a.data && a.data == b.data;
}

}  // namespace

Status attention(const Attention& p, Context& context) {
    const int64_t B = dim(p.q, 0), Tq = dim(p.q, 1), H = dim(p.q, 2), D = dim(p.q, 3);
    FrontDoor door("attention", context);
    shared_checks(door, p.q, p.k, p.v)
        .real("out", p.out, {B, Tq, H, D})
        .optional_real("lse", p.lse, {B, H, Tq})
        .that(scale_ok(p.scale), "scale", "must lie between 1e-30 and 1e30")
        .that(!same(p.out, p.q) && !same(p.out, p.k) && !same(p.out, p.v), "out", "may not be q, k or v");
    const AttentionMask& m = p.mask;
    const bool plain = m.causal && m.window == 0 && !m.key_start && !m.key_end && !p.lse && H == dim(p.k, 2);
    door.that(!p.one_by_one || plain, "one_by_one", "takes a causal mask alone, a key head per head, and no lse");
    return mask_checks(door, p.mask, B, dim(p.k, 1)).call(&OpTable::attention, p);
}

Status attention_backward(const AttentionBackward& p, Context& context) {
    const int64_t B = dim(p.q, 0), Tq = dim(p.q, 1), H = dim(p.q, 2), D = dim(p.q, 3);
    const int64_t Tk = dim(p.k, 1), Hkv = dim(p.k, 2);
    FrontDoor door("attention_backward", context);
    shared_checks(door, p.q, p.k, p.v)
        .real("out", p.out, {B, Tq, H, D})
        .real("lse", p.lse, {B, H, Tq})
        .real("d_out", p.d_out, {B, Tq, H, D})
        .real("d_q", p.d_q, {B, Tq, H, D})
        .real("d_k", p.d_k, {B, Tk, Hkv, D})
        .real("d_v", p.d_v, {B, Tk, Hkv, D})
        .that(scale_ok(p.scale), "scale", "must lie between 1e-30 and 1e30")
        .that(!same(p.d_q, p.d_k) && !same(p.d_q, p.d_v) && !same(p.d_k, p.d_v), "d_q", "(or d_k, d_v) is given twice");
    for (const View* d : {&p.d_q, &p.d_k, &p.d_v})
        for (const View* input : {&p.q, &p.k, &p.v, &p.out, &p.d_out})
            door.that(!same(*d, *input), "d_q", "(or d_k, d_v) may not be an input");
    return mask_checks(door, p.mask, B, Tk).call(&OpTable::attention_backward, p);
}

}  // namespace noema
