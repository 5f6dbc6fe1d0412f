// coupling.cpp and maf.cpp read from bottom to top; each paragraph names the forward line that it differentiates.
#include "models/flow/coupling.h"

namespace noema {

namespace {

/// The coupling's own gradients for some rows: d_h and d_parameters assigned.
Status couple_chunk_backward(const Coupling& k, const View& h, const View& parameters, const CouplingGradients& d,
                             const View& d_parameters, Context& c) {
    const CouplingOutput& up = d.upstream;
    switch (k.stage.kind) {
        case FlowKind::affine:
            return affine_backward({.h = h,
                                    .parameters = parameters,
                                    .d_u = up.u,
                                    .d_log_density = up.log_density,
                                    .d_log_det = up.log_det,
                                    .d_h = d.h,
                                    .d_parameters = d_parameters},
                                   c);
        case FlowKind::mixture_cdf:
            return mixture_cdf_backward({.h = h,
                                         .parameters = parameters,
                                         .d_u = up.u,
                                         .d_log_density = up.log_density,
                                         .d_log_det = up.log_det,
                                         .d_h = d.h,
                                         .d_parameters = d_parameters},
                                        c);
        case FlowKind::mixture_rosenblatt: break;
    }
    return mixture_rosenblatt_backward({.z = as_tokens(k, h),
                                        .logits = parameters,
                                        .mean = k.mean,
                                        .log_sigma = k.log_sigma,
                                        .d_u = as_tokens(k, up.u),
                                        .d_log_density = up.log_density,
                                        .d_log_det = up.log_det,
                                        .d_z = as_tokens(k, d.h),
                                        .d_logits = d_parameters,
                                        .d_mean = d.mean,
                                        .d_log_sigma = d.log_sigma},
                                       c);
}

CouplingGradients some_of(const Coupling& k, const CouplingGradients& d, int64_t first, int64_t count) {
    const int64_t n = k.units();
    return {.upstream = {.u = rows_of(d.upstream.u, first, count),
                         .log_density = rows_of(d.upstream.log_density, first * n, count * n),
                         .log_det = rows_of(d.upstream.log_det, first * n, count * n)},
            .g = rows_of(d.g, first, count),
            .h = rows_of(d.h, first, count),
            .mean = d.mean,
            .log_sigma = d.log_sigma};
}

}  // namespace

Status exact_linear_backward(const View& x, const View& d_y, const BiasedGradient& g, Context& c) {
    return biased_linear_gradients(d_y, x, g, Precision::f32, c);
}

Status couple_backward(const Coupling& k, const View& g, const View& h, const StageGradients& gradients,
                       const CouplingGradients& all, Context& c) {
    return each_chunk(k, g.shape[0], [&](int64_t first, int64_t count) -> Status {
        ArenaScope scope(*c.arena);
        const View some_g = rows_of(g, first, count), some_h = rows_of(h, first, count);
        const CouplingGradients d = some_of(k, all, first, count);

        // u, log_density, log_det = coupling(h; parameters); the parameters are made again.
        const Parameters p = make_parameters(k, some_g, *c.arena);
        NOEMA_TRY(parameters_forward(k, some_g, some_h, p, c));
        NOEMA_TRY(couple_chunk_backward(k, some_h, as_components(k, p.all), d, as_components(k, p.all), c));

        // parameters = head(g), or the grouped head of g and h
        if (k.stage.kind == FlowKind::mixture_cdf)
            return maf_backward(k, some_g, some_h, p, gradients, {p.all, d.g, d.h}, c);
        NOEMA_TRY(exact_linear_backward(some_g, p.all, gradients.head, c));
        return linear_input_gradient(k.weights.head.weight, p.all, d.g, false, Precision::f32, c);
    });
}

}  // namespace noema
