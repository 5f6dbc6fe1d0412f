// posterior_update: one step of the fast loop of latent thought models (ltm.md section 2.2), in one pass over what a sequence's
// posterior q = N(mean, exp(log_variance)) consists of: Adam on the loss of the last draw, then the next draw.
//
//   with d_z, the gradient of the summed cross-entropy at z = mean + eps exp(log_variance / 2):
//     d_mean = d_z + kl_weight mean
//     d_log_variance = d_z eps exp(log_variance / 2) / 2 + kl_weight (exp(log_variance) - 1) / 2   (the second terms are the KL's)
//     mean and log_variance each:  m = beta1 m + (1-beta1) g;   v = beta2 v + (1-beta2) g²
//                                  x -= rate m/(1-beta1^step) / (sqrt(v/(1-beta2^step)) + epsilon)
//   always, with mean and log_variance as they are now:
//     z = mean + next_eps exp(log_variance / 2)
//     kl = 1/2 sum(mean² + exp(log_variance) - log_variance - 1)
//     log_ratio = 1/2 sum(next_eps² + log_variance - z²) = log p(z) - log q(z)
//
// So kl and log_ratio belong to the z of the same call: the loss of a step is the cross-entropy at z plus kl, and a bound's
// log w (checkpoints.md, Bounds) is log_ratio minus the cross-entropy. Without d_z the call only draws: a fit starts so, and
// each fresh draw of a bound is one such call.
//
// next_eps is given, or with `seeds` made here: the standard normals of (seeds[b], RngStream::thought, draw), see rng.h. A
// sequence's result does not depend on the others of its batch. Of a sequence that is not active nothing is written.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct PosteriorUpdate {
    View mean;            // [B,n] f32 in and out, rows contiguous (as all others)
    View log_variance;    // [B,n] in and out
    View d_z;             // [B,n], optional: no update without it
    View eps;             // [B,n] the draw that d_z belongs to; with d_z
    View mean_m;          // [B,n] in and out, with d_z: Adam's moments, 0 before the first step
    View mean_v;          // [B,n]
    View log_variance_m;  // [B,n] these two not with constant_log_variance
    View log_variance_v;  // [B,n]
    View next_eps;        // [B,n] in; with seeds out, and optional. May be eps.
    View seeds;           // [B] i64 (bits of a u64), optional
    View active;          // [B] u8, optional (1)
    View z;               // [B,n] out
    View kl;              // [B] out, optional
    View log_ratio;       // [B] out, optional
    int64_t draw = 0;     // with seeds: which draw, 0 to 2^32 - 1
    int64_t step = 1;     // Adam's, counts from 1
    float rate = 0.0f;
    float beta1 = 0.9f;
    float beta2 = 0.999f;
    float epsilon = 1e-8f;
    float kl_weight = 1.0f;              // of the loss alone: kl and log_ratio are what they are
    bool constant_log_variance = false;  // freezes log_variance
};

}  // namespace noema
