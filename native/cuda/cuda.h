// The entries of the CUDA backend's table, one per op of ops.def that says yes to it.
#pragma once

#include "noema/backend.h"

namespace noema::cuda {

#define NOEMA_OP_yes(name, Params) Op<Params> name##_entry();
#define NOEMA_OP_no(name, Params)
#define NOEMA_OP(name, Params, cpu, cuda, reference) NOEMA_OP_##cuda(name, Params)
#include "noema/ops.def"
#undef NOEMA_OP
#undef NOEMA_OP_yes
#undef NOEMA_OP_no

/// Bytes of a weight as matmul_pack lays it out (matmul.cu): its rows, so that it serves products of both ways.
size_t packed_bytes(const View& weight, Precision precision, bool transposed = false);

}  // namespace noema::cuda
