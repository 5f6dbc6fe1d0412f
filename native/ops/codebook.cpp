#include "front_door.h"

namespace noema {

namespace {

/// The table [V,d] that `mean` and `log_sigma` are.
FrontDoor& table(FrontDoor& door, const View& mean, const View& log_sigma, int64_t d) {
    const int64_t V = dim(mean, 0);
    return door.real("mean", mean, {V, d})
        .real("log_sigma", log_sigma, {V})
        .that(V > 0 && d > 0, "mean", "must have a row and a column");
}

}  // namespace

Status codebook_encode(const CodebookEncode& p, Context& context) {
    const int64_t R = dim(p.ids, 0), d = dim(p.mean, 1);
    FrontDoor door("codebook_encode", context);
    return table(door.typed("ids", p.ids, DType::i32, {R}), p.mean, p.log_sigma, d)
        .real("eps", p.eps, {R, d})
        .real("z", p.z, {R, d})
        .ids("ids", p.ids, 0, dim(p.mean, 0))
        .call(&OpTable::codebook_encode, p);
}

Status codebook_encode_backward(const CodebookEncodeBackward& p, Context& context) {
    const int64_t R = dim(p.ids, 0), V = dim(p.d_mean, 0), d = dim(p.d_mean, 1);
    return FrontDoor("codebook_encode_backward", context)
        .typed("ids", p.ids, DType::i32, {R})
        .real("log_sigma", p.log_sigma, {V})
        .real("eps", p.eps, {R, d})
        .real("d_z", p.d_z, {R, d})
        .real("d_mean", p.d_mean, {V, d})
        .real("d_log_sigma", p.d_log_sigma, {V})
        .that(V > 0 && d > 0, "d_mean", "must have a row and a column")
        .ids("ids", p.ids, 0, V)
        .call(&OpTable::codebook_encode_backward, p);
}

Status codebook_decode(const CodebookDecode& p, Context& context) {
    const int64_t R = dim(p.z, 0), d = dim(p.mean, 1);
    FrontDoor door("codebook_decode", context);
    return table(door.real("z", p.z, {R, d}), p.mean, p.log_sigma, d)
        .optional_real("log_sum", p.log_sum, {R})
        .optional_typed("best", p.best, DType::i32, {R})
        .optional_real("confidence", p.confidence, {R})
        .call(&OpTable::codebook_decode, p);
}

Status codebook_decode_backward(const CodebookDecodeBackward& p, Context& context) {
    const int64_t R = dim(p.z, 0), V = dim(p.mean, 0), d = dim(p.mean, 1);
    FrontDoor door("codebook_decode_backward", context);
    return table(door.real("z", p.z, {R, d}), p.mean, p.log_sigma, d)
        .real("log_sum", p.log_sum, {R})
        .real("d_log_sum", p.d_log_sum, {R})
        .real("d_z", p.d_z, {R, d})
        .real("d_mean", p.d_mean, {V, d})
        .real("d_log_sigma", p.d_log_sigma, {V})
        .call(&OpTable::codebook_decode_backward, p);
}

}  // namespace noema
