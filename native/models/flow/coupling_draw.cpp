// An ancestral draw from a flow's mixtures (tarflowlm.md section 3.4).
#include "models/flow/coupling.h"

namespace noema {

namespace {

Status draw_scalars(const Coupling& k, const View& g, const CouplingDraw& d, const View& h, Context& c) {
    const auto through = [&](int64_t i, const View& parameters, const View& narrow) -> Status {
        NOEMA_TRY(mixture_cdf_draw({.uniform = columns_of(d.uniform, i, 1),
                                    .normal = columns_of(d.normal, i, 1),
                                    .parameters = parameters,
                                    .h = narrow},
                                   c));
        return cast({.x = narrow, .y = columns_of(h, i, 1)}, c);
    };
    return maf_scalars(k, g, through, c);
}

/// The weights of token p of a patch: those of a single one are packed, and stay so.
BiasedWeight head_of(const Coupling& k, int64_t p) {
    const BiasedWeight& head = k.weights.head;
    if (k.config.patch_size == 1) return head;
    const int64_t K = k.config.components(k.stage);
    return {{rows_of(head.weight.view, p * K, K)}, rows_of(head.bias, p * K, K)};
}

/// The components are a vocabulary, and a value near one is what the codebook's encoder makes of it.
Status draw_tokens(const Coupling& k, const View& g, const CouplingDraw& d, const View& h, Context& c) {
    const int64_t R = g.shape[0], latent = k.config.latent_size;
    ArenaScope scope(*c.arena);
    const View components = c.arena->tensor(DType::i32, R), narrow = c.arena->tensor(DType::f32, R, h.shape[1]);
    for (int64_t p = 0; p < k.config.patch_size; ++p) {
        const BiasedWeight head = head_of(k, p);
        NOEMA_TRY(sample({.hidden = g,
                          .weight = head.weight,
                          .bias = head.bias,
                          .seeds = d.seeds,
                          .positions = as_shape(rows_of(d.positions, p, 1), {R}),
                          .tokens = components,
                          .temperature = d.way.temperature,
                          .top_k = d.way.top_k,
                          .top_p = d.way.top_p},
                         c));
        NOEMA_TRY(codebook_encode({.ids = components,
                                   .mean = k.mean,
                                   .log_sigma = k.log_sigma,
                                   .eps = columns_of(d.normal, p * latent, latent),
                                   .z = columns_of(narrow, p * latent, latent)},
                                  c));
    }
    return cast({.x = narrow, .y = h}, c);
}

}  // namespace

Status draw_from(const Coupling& k, const View& g, const CouplingDraw& d, const View& h, Context& c) {
    if (k.stage.kind == FlowKind::mixture_cdf) return draw_scalars(k, g, d, h, c);
    return draw_tokens(k, g, d, h, c);
}

}  // namespace noema
