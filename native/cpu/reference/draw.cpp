#include "noema/rng.h"
#include "reference.h"

namespace noema::reference {

namespace {

template <class A>
A uniform_at(const Draw& p, int64_t r, int64_t j) {
    if (p.uniforms) return get<A>(p.uniforms, r, j);
    const int64_t step = p.steps ? p.steps.as<int32_t>()[r] : p.step;
    return static_cast<A>(rng_uniform(static_cast<uint64_t>(p.seeds.as<int64_t>()[r]), RngStream::remask,
                                      static_cast<uint32_t>(step), static_cast<uint32_t>(p.positions.as<int32_t>()[r]),
                                      static_cast<uint32_t>(j)));
}

template <class A>
A weight_at(const Draw& p, int64_t r, int64_t j) {
    if (p.last >= 0 && j == p.weight.shape[1] - 1) return static_cast<A>(p.last);
    return static_cast<A>(p.scale) * get<A>(p.weight, r, j);
}

template <class A>
Status draw_loop(const Draw& p) {
    const A tiny = static_cast<A>(1e-10);
    for (int64_t r = 0; r < p.weight.shape[0]; ++r) {
        int64_t best = 0;
        A best_score = -std::numeric_limits<A>::infinity();
        for (int64_t j = 0; j < p.weight.shape[1]; ++j) {
            const A noise = tiny - std::log(uniform_at<A>(p, r, j) + tiny);
            const A score = weight_at<A>(p, r, j) / std::pow(noise, static_cast<A>(p.temperature));
            if (!(score > best_score)) continue;
            best = j;
            best_score = score;
        }
        set<A>(p.index, static_cast<A>(best), r);
    }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(draw, Draw)

}  // namespace noema::reference
