// How the ops of mixture_cdf cut their rows into tasks.
#pragma once

#include "cpu/tasks.h"
#include "noema/arena.h"
#include "noema/ops/mixture_cdf.h"

namespace noema::cpu {

/// Calls f(first, last, worker) on runs of rows of parameters [R,c,3K]; none when there are no scalars. 128 scalars or 4096
/// components, what is more: some 10 microseconds, and a last vector of scalars that is half empty costs a few percent.
template <class F>
void parallel_mixtures(const Stream& stream, const View& parameters, const F& f) {
    const int64_t R = parameters.shape[0], c = parameters.shape[1], K = parameters.shape[2] / 3;
    if (c == 0) return;
    const int64_t scalars = std::max<int64_t>(128, 4096 / K), rows = ceil_div(scalars, c);
    parallel_for(stream, ceil_div(R, rows),
                 [&](int64_t i, int worker) { f(i * rows, std::min(R, (i + 1) * rows), worker); });
}

/// Forward of wide states (mixture_inverse.cpp), and the workspace that it and the inverse take.
void pass_wide_mixtures(const MixtureCdf& p, const Stream& stream, Workspace& workspace);
size_t wide_mixture_bytes(const View& parameters, const Stream& stream);

}  // namespace noema::cpu
