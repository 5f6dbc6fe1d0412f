// What the fast CPU files share outside per-instruction-set code: the entries of the table and the choice of
// instruction set.
#pragma once

#include "noema/backend.h"

namespace noema::cpu {

/// Rising levels; a level includes what stands before it. The last two have kernels of their own beside the Highway
/// ones.
enum class Isa : int { portable, avx2, avx512, avx512_bf16, amx };

/// The level in force: the best of the machine, or what force_isa set.
Isa current_isa();

#define NOEMA_OP_yes(name, Params) Op<Params> name##_entry();
#define NOEMA_OP_no(name, Params)
#define NOEMA_OP(name, Params, cpu, cuda, reference) NOEMA_OP_##cpu(name, Params)
#include "noema/ops.def"
#undef NOEMA_OP
#undef NOEMA_OP_yes
#undef NOEMA_OP_no

/// Bytes of a weight in the arrangement of matmul_pack (matmul_packing.h).
size_t packed_bytes(const View& weight, Precision precision, bool transposed);

}  // namespace noema::cpu
