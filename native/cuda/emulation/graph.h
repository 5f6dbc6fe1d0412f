// Streams that are captured, and what graphs do: their nodes one after the other, the body of a while node as long as its condition holds.
#pragma once

#include "runtime.h"

namespace noema::cuda::emulation {

bool is_capturing(cudaStream_t stream);
/// Work for the stream's graph, behind what it was told before.
cudaError_t capture(cudaStream_t stream, std::function<cudaError_t()> work);
/// Does what the stream's launched graphs have left; the first error of that, once.
cudaError_t finish(cudaStream_t stream);

}  // namespace noema::cuda::emulation
