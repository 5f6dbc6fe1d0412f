#include "front_door.h"

namespace noema {

namespace {

struct Sizes {
    int64_t B, N, c, C, F, S, D;

    explicit Sizes(const SequentialInverse& p)
        : B(dim(p.u, 0)),
          N(dim(p.u, 1)),
          c(dim(p.u, 2)),
          C(dim(p.norm, 0)),
          F(p.layers > 0 && p.blocks ? dim(p.blocks[0].gate.view, 0) : 0),
          S(p.layers > 0 && p.blocks ? dim(p.blocks[0].keys, 1) : 0),
          D(p.H > 0 ? C / p.H : 0) {}
};

class Checks {
 public:
    Checks(const char* op, const SequentialInverse& p, Context& context)
        : p_(p), s_(p), backend_(*context.backend), door_(op, context) {}

    FrontDoor& inverse() {
        door_.real("start", p_.start, {s_.c});
        return all();
    }
    FrontDoor& sweep(const View& before, bool forward) {
        door_.real("before", before, {s_.B, s_.N, s_.c})
            .that(before.contiguous(), "before", "must be contiguous")
            .that(!forward || !p_.fixed, "fixed", "has no meaning with forward");
        return all();
    }

 private:
    FrontDoor& all() {
        latents();
        door_.that(p_.H > 0 && s_.C % (2 * p_.H) == 0, "H", "must divide the width into heads of even width")
            .that(p_.layers >= 0 && (p_.layers == 0 || p_.blocks), "blocks", "has no memory")
            .that(p_.position >= 0, "position", "must not be negative");
        product("input", p_.input, s_.C, s_.c, Precision::f32);
        door_.real("input_bias", p_.input_bias, {s_.C}).real("norm", p_.norm, {s_.C});
        for (int64_t i = 0; i < p_.layers && !door_.failed(); ++i) block(p_.blocks[i]);
        head(p_.head);
        return door_;
    }

    void latents() {
        door_.typed("u", p_.u, DType::f64, {s_.B, s_.N, s_.c})
            .that(p_.u.contiguous(), "u", "must be contiguous")
            .typed("h", p_.h, DType::f64, {s_.B, s_.N, s_.c})
            .that(p_.h.contiguous(), "h", "must be contiguous")
            .that(s_.c > 0, "u", "must have channels")
            .optional_typed("fixed", p_.fixed, DType::u8, {s_.B, s_.N})
            .that(is_grid(p_.grid), "grid", kGridExpected);
        View counts = p_.failed;  // a last axis of one element: the others may have any strides
        counts.rank = p_.failed.rank + 1;
        counts.shape[p_.failed.rank] = 1;
        door_.that(p_.failed.rank == 2, "failed", "must be [B,N]").typed("failed", counts, DType::i32, {s_.B, s_.N, 1});
    }

    void product(const char* name, const Weight& weight, int64_t N, int64_t K, Precision precision) {
        door_.stored(name, weight.view, {N, K})
            .that(is_arranged(weight, precision, backend_), name, "is not packed for the precision of its product");
    }

    void cache(const char* name, const View& v) {
        door_.real(name, v, {s_.B, s_.S, p_.H, s_.D})
            .that(v.contiguous(), name, "must be contiguous")
            .that(p_.position + s_.N <= s_.S, name, "has no room for all positions");
    }

    void block(const InverseBlock& w) {
        const int64_t C = s_.C, F = s_.F;
        door_.real("attention_norm", w.attention_norm, {C}).real("mlp_norm", w.mlp_norm, {C});
        product("q", w.q, C, C, p_.precision);
        product("k", w.k, C, C, p_.precision);
        product("v", w.v, C, C, p_.precision);
        product("o", w.o, C, C, p_.precision);
        product("gate", w.gate, F, C, p_.precision);
        product("up", w.up, F, C, p_.precision);
        product("down", w.down, C, F, p_.precision);
        cache("keys", w.keys);
        cache("values", w.values);
    }

    void head(const InverseHead& h) {
        if (h.kind == CouplingKind::mixture_cdf) return grouped_head(h);
        const bool affine = h.kind == CouplingKind::affine;
        const int64_t K = affine ? 0 : dim(h.mean, 0), rows = affine ? 2 * s_.c : h.P * K;
        const int64_t d = h.P > 0 ? s_.c / h.P : 0;
        if (!affine)
            door_.that(h.P > 0 && s_.c % h.P == 0, "head.P", "must divide the channels")
                .that(K > 0, "head.mean", "must have components")
                .real("head.mean", h.mean, {K, d})
                .real("head.log_sigma", h.log_sigma, {K});
        product("head.weight", h.weight, rows, s_.C, Precision::f32);
        door_.real("head.bias", h.bias, {rows});
    }

    void grouped_head(const InverseHead& h) {
        const int64_t c = s_.c, features = (c - 1) * h.E;
        door_.that(c >= 2, "u", "must have 2 channels for a grouped head")
            .that(h.E > 0 && h.M > 0 && h.K > 0, "head", "must have features, hidden units and components");
        product("head.context", h.context, c * h.M, s_.C, Precision::f32);
        door_.real("head.context_bias", h.context_bias, {c * h.M})
            .real("head.embed", h.embed, {features, 3})
            .that(h.embed.contiguous(), "head.embed", "must be contiguous")
            .real("head.embed_bias", h.embed_bias, {features})
            .stored("head.features", h.features, {c * h.M, features})
            .stored("head.out", h.out, {c * 3 * h.K, h.M})
            .real("head.out_bias", h.out_bias, {c * 3 * h.K});
    }

    const SequentialInverse& p_;
    const Sizes s_;
    const Backend& backend_;
    FrontDoor door_;
};

}  // namespace

Status sequential_inverse(const SequentialInverse& p, Context& context) {
    return Checks("sequential_inverse", p, context).inverse().call(&OpTable::sequential_inverse, p);
}
Status sequential_sweep(const SequentialSweep& p, Context& context) {
    return Checks("sequential_sweep", p.flow, context).sweep(p.before, p.forward).call(&OpTable::sequential_sweep, p);
}

}  // namespace noema
