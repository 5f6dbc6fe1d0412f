// A flow's head and coupling: features g and the flow's input h [R,c] in, noise u [R,c] and its likelihood out. Parameters (up to P * V
// or 3 K c numbers per row) are made for a few rows at a time and never kept: backward makes them again.
#include "models/flow/coupling.h"

namespace noema {

namespace {

/// 16 MB of parameters at a time: several times a second-level cache, so that every product has many rows; cut by shape alone.
constexpr int64_t kParametersAtOnce = int64_t{1} << 22;

int64_t parameters_per_row(const Coupling& k) {
    const int64_t c = k.config.channels(), K = k.stage.num_components;
    switch (k.stage.kind) {
        case FlowKind::affine: return 2 * c;
        case FlowKind::mixture_cdf: return 3 * K * c;
        case FlowKind::mixture_rosenblatt: return k.config.patch_size * k.config.components(k.stage);
    }
    return 0;
}

}  // namespace

Status each_chunk(const Coupling& k, int64_t R, const std::function<Status(int64_t first, int64_t count)>& f) {
    const int64_t at_once = std::max<int64_t>(1, kParametersAtOnce / parameters_per_row(k));
    for (int64_t first = 0; first < R; first += at_once) NOEMA_TRY(f(first, std::min(at_once, R - first)));
    return {};
}

Parameters make_parameters(const Coupling& k, const View& g, Arena& arena) {
    const int64_t R = g.shape[0], c = k.config.channels();
    Parameters p;
    p.all = arena.tensor(DType::f32, R, parameters_per_row(k));
    if (k.stage.kind != FlowKind::mixture_cdf) return p;
    p.features = arena.tensor(DType::f32, R, (c - 1) * k.stage.maf_features);
    p.sums = arena.tensor(DType::f32, R, c * k.stage.maf_hidden);
    p.hidden = arena.tensor(DType::f32, R, c * k.stage.maf_hidden);
    return p;
}

Status exact_linear(const BiasedWeight& w, const View& x, const View& y, Context& c) {
    return biased_linear(w, x, y, Precision::f32, c);
}

Status parameters_forward(const Coupling& k, const View& g, const View& h, const Parameters& p, Context& c) {
    if (k.stage.kind == FlowKind::mixture_cdf) return maf_forward(k, g, h, p, c);
    return exact_linear(k.weights.head, g, p.all, c);
}

View as_components(const Coupling& k, const View& all) {
    const int64_t R = all.shape[0], c = k.config.channels();
    switch (k.stage.kind) {
        case FlowKind::affine: return all;
        case FlowKind::mixture_cdf: return as_shape(all, {R, c, 3 * k.stage.num_components});
        case FlowKind::mixture_rosenblatt: break;
    }
    return as_shape(all, {R * k.config.patch_size, k.config.components(k.stage)});
}

View as_tokens(const Coupling& k, const View& v) {
    return v ? as_shape(v, {v.shape[0] * k.config.patch_size, k.config.latent_size}) : v;
}

namespace {

Status couple_chunk(const Coupling& k, const View& h, const View& parameters, const CouplingOutput& out, Context& c) {
    switch (k.stage.kind) {
        case FlowKind::affine:
            return affine(
                {.h = h, .parameters = parameters, .u = out.u, .log_density = out.log_density, .log_det = out.log_det},
                c);
        case FlowKind::mixture_cdf:
            return mixture_cdf(
                {.h = h, .parameters = parameters, .u = out.u, .log_density = out.log_density, .log_det = out.log_det},
                c);
        case FlowKind::mixture_rosenblatt: break;
    }
    return mixture_rosenblatt({.z = as_tokens(k, h),
                               .logits = parameters,
                               .mean = k.mean,
                               .log_sigma = k.log_sigma,
                               .u = as_tokens(k, out.u),
                               .log_density = out.log_density,
                               .log_det = out.log_det},
                              c);
}

Status uncouple_chunk(const Coupling& k, const View& parameters, const Uncoupling& p, Context& c) {
    if (k.stage.kind == FlowKind::affine) {
        if (p.forward) return affine({.h = p.h, .parameters = parameters, .u = p.u, .grid = p.grid}, c);
        return affine_inverse({.u = p.u, .parameters = parameters, .h = p.h, .grid = p.grid}, c);
    }
    const View u = as_tokens(k, p.u), z = as_tokens(k, p.h);
    if (p.forward)
        return mixture_rosenblatt(
            {.z = z, .logits = parameters, .mean = k.mean, .log_sigma = k.log_sigma, .u = u, .grid = p.grid}, c);
    return mixture_rosenblatt_inverse({.u = u,
                                       .logits = parameters,
                                       .mean = k.mean,
                                       .log_sigma = k.log_sigma,
                                       .z = z,
                                       .failed = p.failed,
                                       .grid = p.grid},
                                      c);
}

}  // namespace

Status couple(const Coupling& k, const View& g, const View& h, const CouplingOutput& out, Context& c) {
    return each_chunk(k, g.shape[0], [&](int64_t first, int64_t count) -> Status {
        ArenaScope scope(*c.arena);
        const View some_g = rows_of(g, first, count), some_h = rows_of(h, first, count);
        const Parameters p = make_parameters(k, some_g, *c.arena);
        NOEMA_TRY(parameters_forward(k, some_g, some_h, p, c));
        const int64_t n = k.units();
        const CouplingOutput some{.u = rows_of(out.u, first, count),
                                  .log_density = rows_of(out.log_density, first * n, count * n),
                                  .log_det = rows_of(out.log_det, first * n, count * n)};
        return couple_chunk(k, some_h, as_components(k, p.all), some, c);
    });
}

namespace {

/// Rows are sequences here, one position each: few, and all scalars' searches are counted apart.
Status uncouple_scalars(const Coupling& k, const View& g, const Uncoupling& p, Context& c) {
    const int64_t R = g.shape[0];
    const auto through = [&](int64_t i, const View& parameters, const View& narrow) -> Status {
        const View u = columns_of(p.u, i, 1), h = columns_of(p.h, i, 1);
        if (p.forward) {
            NOEMA_TRY(mixture_cdf({.h = h, .parameters = parameters, .u = u, .grid = p.grid}, c));
        } else {
            const View failed = rows_of(p.failed, i * R, R);
            NOEMA_TRY(
                mixture_cdf_inverse({.u = u, .parameters = parameters, .h = h, .failed = failed, .grid = p.grid}, c));
        }
        return cast({.x = h, .y = narrow}, c);
    };
    return maf_scalars(k, g, through, c);
}

}  // namespace

Status uncouple(const Coupling& k, const View& g, const Uncoupling& p, Context& c) {
    if (k.stage.kind == FlowKind::mixture_cdf) return uncouple_scalars(k, g, p, c);
    return each_chunk(k, g.shape[0], [&](int64_t first, int64_t count) -> Status {
        ArenaScope scope(*c.arena);
        const View some_g = rows_of(g, first, count);
        const Uncoupling some{.u = rows_of(p.u, first, count),
                              .h = rows_of(p.h, first, count),
                              .failed = rows_of(p.failed, first * k.units(), count * k.units()),
                              .grid = p.grid,
                              .forward = p.forward};
        const Parameters made = make_parameters(k, some_g, *c.arena);
        NOEMA_TRY(parameters_forward(k, some_g, {}, made, c));
        return uncouple_chunk(k, as_components(k, made.all), some, c);
    });
}

}  // namespace noema
