// What this machine can do, measured in short slices: register-only arithmetic, reading memory, the exponential of
// simd-inl.h. All on the instruction set in force and on every thread of a team at once.
#pragma once

#include <cstddef>

#include "noema/stream.h"
#include "noema/tensor.h"

namespace noema::bench {

/// One slice of about a millisecond each; units per second, summed over the threads.
double flops_slice(const Stream& stream, Precision precision);
double exps_slice(const Stream& stream);
/// Reads a buffer of `bytes` (at most 256 MB), cut into one part per thread, again and again: each part as one stream and
/// as four, whichever is faster. Threads do not meet between two passes: what handing out work costs is left to the case.
double read_slice(const Stream& stream, double bytes);

// bf16 rates beside Highway's instruction sets, for one thread; 0 work when the machine lacks them. Each returns the
// floating point operations that it did.
double dot_bf16_burst();
double dot_amx_burst();

double seconds_now();

}  // namespace noema::bench
