// The codebook VAE of TarFlowLM (tarflowlm.md section 1): token k is the normal density N_k(z) = N(z; mean_k, sigma_k² I),
// sigma_k = exp(log_sigma_k), never clamped.
//
// codebook_encode  z[r] = mean[ids[r]] + sigma[ids[r]] * eps[r]
// codebook_decode  log_sum[r] = log sum_k N_k(z[r]), best[r] = argmax_k N_k(z[r]) (ties to the lowest k), confidence[r] = its
//                  share of the sum. No R x V array is ever stored. Maths in f32 or wider; distances are formed as
//                  (z - mean)², never by |z|² - 2 z mean + |mean|², which cancels at small sigma.
#pragma once

#include "noema/tensor.h"

namespace noema {

struct CodebookEncode {
    View ids;        // [R] i32, each in [0, V): the front door checks them on the host
    View mean;       // [V,d]
    View log_sigma;  // [V]
    View eps;        // [R,d] standard normal noise
    View z;          // [R,d] out
};

struct CodebookEncodeBackward {
    View ids;          // [R] i32
    View log_sigma;    // [V]
    View eps;          // [R,d]
    View d_z;          // [R,d]
    View d_mean;       // [V,d] +=; rows with the same id are added in ascending r
    View d_log_sigma;  // [V] +=, likewise
};

struct CodebookDecode {
    View z;           // [R,d]
    View mean;        // [V,d]
    View log_sigma;   // [V]
    View log_sum;     // [R] out, optional
    View best;        // [R] i32 out, optional
    View confidence;  // [R] out, optional: exp(log N_best(z) - log_sum)
};

struct CodebookDecodeBackward {
    View z;            // [R,d]
    View mean;         // [V,d]
    View log_sigma;    // [V]
    View log_sum;      // [R] saved by forward
    View d_log_sum;    // [R]
    View d_z;          // [R,d] assigned, or += with accumulate_z
    View d_mean;       // [V,d] +=
    View d_log_sigma;  // [V] +=
    bool accumulate_z = false;
};

}  // namespace noema
