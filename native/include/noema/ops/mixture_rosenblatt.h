// mixture_rosenblatt: the d-dimensional mixture coupling (tarflowlm.md sections 3.2 to 3.4), token by token. With weights
// pi = softmax(logits) over K components N_k = N(mean_k, sigma_k² I), sigma_k = exp(log_sigma_k):
//
//   a_k = pi_k;  for i = 0 .. d-1:  p_i = sum_k a_k N(z_i; mean_ki, sigma_k²),  F_i = sum_k a_k Phi((z_i - mean_ki) / sigma_k),
//                                   u_i = Phi^-1(F_i),  a_k <- a_k N(z_i; mean_ki, sigma_k²) / p_i
//   log_density[r] = sum_i log p_i = log sum_k pi_k N_k(z)      log_det[r] = log_density[r] - sum_i log N(u_i; 0, 1)
//
// Both tails, F and 1 - F, are summed; u comes from the smaller one, in logs where it is tiny. Posterior weights are kept
// in logs, normalised at every step. K goes up to the vocabulary (50,257), so where |u_i| <= kPrunedWithin components whose
// log a_k lies more than kPrunedBelow under the largest are left out of F_i, by the same rule in both directions; further out
// a tail may belong to just those, and all that can be seen in it are summed. Without u and log_det only the density is
// computed, over all components.
//
// Backward: the implicit rule, never through a root finder. Takes the gradients of u, log_density and log_det, each optional
// (absent: zero).
// Wide states, mixture_rosenblatt_inverse and _draw: as for mixture_cdf; with a grid every scalar is rounded before those after
// it are sought, so they see what forward saw. A draw takes one component for the whole token.
#pragma once

#include "noema/ops/grid.h"
#include "noema/tensor.h"

namespace noema {

/// 50,257 components of exp(-33) of the largest weigh 2.3e-10 of it together: at |u| = 4, where the density of u is 1.3e-4,
/// that moves u by less than 2e-6.
constexpr float kPrunedBelow = 33.0f, kPrunedWithin = 4.0f;

struct MixtureRosenblatt {
    View z;            // [R,d] f32 or f64
    View logits;       // [R,K], rows contiguous
    View mean;         // [K,d]
    View log_sigma;    // [K]
    View u;            // [R,d] out, optional, of z's dtype
    View log_density;  // [R] out, optional
    View log_det;      // [R] out, optional
    double grid = 0;   // of u
};

struct MixtureRosenblattBackward {
    View z;              // [R,d]
    View logits;         // [R,K]
    View mean;           // [K,d]
    View log_sigma;      // [K]
    View d_u;            // [R,d], optional
    View d_log_density;  // [R], optional
    View d_log_det;      // [R], optional
    View d_z;            // [R,d] assigned
    View d_logits;       // [R,K] assigned; may be `logits` itself
    View d_mean;         // [K,d] +=, optional (a frozen table), in an order that depends on shapes alone
    View d_log_sigma;    // [K] +=, optional, likewise
};

struct MixtureRosenblattInverse {
    View u;            // [R,d] f32 or f64
    View logits;       // [R,K]
    View mean;         // [K,d]
    View log_sigma;    // [K]
    View z;            // [R,d] out, of u's dtype; may be u
    View failed;       // [R] i32 out, optional: how many of the token's scalars did not converge
    View evaluations;  // [R] i32 out, optional: evaluations of F that the token took in all
    double grid = 0;   // of z
};

struct MixtureRosenblattDraw {
    View uniform;    // [R] in (0, 1)
    View normal;     // [R,d]
    View logits;     // [R,K]
    View mean;       // [K,d]
    View log_sigma;  // [K]
    View z;          // [R,d] out; may be `normal`
};

}  // namespace noema
