// What the files of the coupling share: parameters of a few rows, the grouped head, views.
#pragma once

#include <algorithm>
#include <functional>

#include "models/flow/weights.h"
#include "models/views.h"

namespace noema {

/// What a head makes for R rows. features, sums and hidden belong to the grouped head of mixture_cdf.
struct Parameters {
    View all;       // [R, parameters per row]
    View features;  // [R,(c-1)*E]
    View sums;      // [R,c*M] before the activation
    View hidden;    // [R,c*M]
};
Parameters make_parameters(const Coupling& coupling, const View& g, Arena& arena);
Status parameters_forward(const Coupling& coupling, const View& g, const View& h, const Parameters& out, Context& c);

/// The parameters in the shape that the coupling's op takes.
View as_components(const Coupling& coupling, const View& all);
/// [R,c] as [R*P,d]; absent stays absent.
View as_tokens(const Coupling& coupling, const View& rows);

/// Calls f(first, count) for as many rows at a time as parameters are made for.
Status each_chunk(const Coupling& coupling, int64_t R, const std::function<Status(int64_t first, int64_t count)>& f);

/// A linear layer in f32, whatever the bodies' precision: latents and parameters are not rounded. And its weights' gradients.
Status exact_linear(const BiasedWeight& weight, const View& x, const View& y, Context& c);
Status exact_linear_backward(const View& x, const View& d_y, const BiasedGradient& gradient, Context& c);

// --- the grouped autoregressive head of mixture_cdf: scalar i sees g and the scalars before it -----------------------

Status maf_forward(const Coupling& coupling, const View& g, const View& h, const Parameters& out, Context& c);
/// Scalar after scalar: parameters of scalar i [R,1,3K] from those before, then its own way through the coupling, which `through` leaves
/// in column i of h [R,c] f32, as the head reads it.
using ScalarWay = std::function<Status(int64_t i, const View& parameters, const View& h)>;
Status maf_scalars(const Coupling& coupling, const View& g, const ScalarWay& through, Context& c);
/// d_parameters [R,c*3K] -> d_g [R,C] assigned, d_h [R,c] +=. Weight gradients are added.
struct MafGradients {
    View parameters, g, h;
};
Status maf_backward(const Coupling& coupling, const View& g, const View& h, const Parameters& made,
                    const StageGradients& gradients, const MafGradients& d, Context& c);

}  // namespace noema
