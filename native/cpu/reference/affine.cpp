#include "reference.h"

namespace noema::reference {

namespace {

constexpr double kHalfLogTau = 0.91893853320467274178;  // log(2 pi) / 2

template <class A>
A soft_clip(A a) {
    return 4 * std::tanh(a / 4);
}

/// 1 - tanh²(a / 4).
template <class A>
A soft_clip_slope(A a) {
    const A cosine = std::cosh(a / 4);
    return 1 / cosine / cosine;
}

template <class A>
A optional(const View& v, int64_t r, int64_t i) {
    return v ? get<A>(v, r, i) : A{0};
}
template <class A>
A optional(const View& v, int64_t r) {
    return v ? get<A>(v, r) : A{0};
}

template <class A>
Status affine_loop(const Affine& p) {
    const int64_t c = p.h.shape[1];
    for (int64_t r = 0; r < p.h.shape[0]; ++r) {
        A log_det = 0, log_normal = 0;
        for (int64_t i = 0; i < c; ++i) {
            const A a = soft_clip(get<A>(p.parameters, r, i)), b = get<A>(p.parameters, r, c + i);
            const A u = (get<A>(p.h, r, i) - b) * std::exp(-a);
            if (p.u) set<A>(p.u, static_cast<A>(on_grid(static_cast<double>(u), p.grid)), r, i);
            log_det -= a;
            log_normal -= u * u / 2 + static_cast<A>(kHalfLogTau);
        }
        if (p.log_det) set<A>(p.log_det, log_det, r);
        if (p.log_density) set<A>(p.log_density, log_det + log_normal, r);
    }
    return {};
}

template <class A>
Status affine_backward_loop(const AffineBackward& p) {
    const int64_t c = p.h.shape[1];
    for (int64_t r = 0; r < p.h.shape[0]; ++r) {
        const A d_density = optional<A>(p.d_log_density, r), d_det = optional<A>(p.d_log_det, r) + d_density;
        for (int64_t i = 0; i < c; ++i) {
            const A raw = get<A>(p.parameters, r, i), b = get<A>(p.parameters, r, c + i);
            const A scale = std::exp(-soft_clip(raw)), u = (get<A>(p.h, r, i) - b) * scale;
            const A d_u = optional<A>(p.d_u, r, i) - d_density * u;
            set<A>(p.d_h, d_u * scale, r, i);
            set<A>(p.d_parameters, (-d_u * u - d_det) * soft_clip_slope(raw), r, i);
            set<A>(p.d_parameters, -d_u * scale, r, c + i);
        }
    }
    return {};
}

template <class A>
Status affine_inverse_loop(const AffineInverse& p) {
    const int64_t c = p.u.shape[1];
    for (int64_t r = 0; r < p.u.shape[0]; ++r)
        for (int64_t i = 0; i < c; ++i) {
            const A a = soft_clip(get<A>(p.parameters, r, i)), b = get<A>(p.parameters, r, c + i);
            const A h = get<A>(p.u, r, i) * std::exp(a) + b;
            set<A>(p.h, static_cast<A>(on_grid(static_cast<double>(h), p.grid)), r, i);
        }
    return {};
}

}  // namespace

NOEMA_REFERENCE_OP(affine, Affine)
NOEMA_REFERENCE_OP(affine_backward, AffineBackward)
NOEMA_REFERENCE_OP(affine_inverse, AffineInverse)

}  // namespace noema::reference
