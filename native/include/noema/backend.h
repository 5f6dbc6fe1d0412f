// Backend: a table with one pair of function pointers per op, and the memory calls. Backends fill it; nobody includes
// them.
#pragma once

#include <cstddef>

#include "noema/arena.h"
#include "noema/ops/all.h"
#include "noema/status.h"
#include "noema/stream.h"
#include "noema/tensor.h"

namespace noema {

constexpr int kBackendVersion = 1;

template <class P>
struct Op {
    /// Null when the backend declines the op. Arguments have passed the front door's checks.
    Status (*run)(const P&, const Stream&, Workspace) = nullptr;
    /// Bytes of workspace that run() will take; null means none.
    size_t (*workspace)(const P&, const Stream&) = nullptr;
};

struct OpTable {
#define NOEMA_OP(name, Params, cpu, reference) Op<Params> name;
#include "noema/ops.def"
#undef NOEMA_OP
};

struct Backend {
    int version = kBackendVersion;
    const char* name = nullptr;  // "cpu", "reference", "naive"
    Device device = Device::cpu;
    OpTable ops;

    /// 64-byte aligned memory of this device, or null. release(null) is allowed.
    void* (*allocate)(size_t bytes) = nullptr;
    void (*release)(void* memory) = nullptr;
    /// Host to device, device to host, zeroes. On the CPU plain memory functions.
    void (*upload)(void* device, const void* host, size_t bytes) = nullptr;
    void (*download)(void* host, const void* device, size_t bytes) = nullptr;
    void (*clear)(void* device, size_t bytes) = nullptr;

    /// Room that matmul_pack needs for a weight [N,K]; 0 when the backend reads weights as they are.
    size_t (*packed_bytes)(const View& weight, Precision precision) = nullptr;

    /// Instruction sets that this machine and build offer, best first, ending in null; and the choice of one for the
    /// whole process (null: the best). Tests and NOEMA_ISA use it. Null for backends without a choice.
    const char* const* (*isa_list)() = nullptr;
    Status (*force_isa)(const char* isa) = nullptr;
    const char* (*current_isa)() = nullptr;
};

/// Built-in backends: "cpu" (fast), "reference" (obvious loops, accumulates in double), "naive" (the same loops,
/// accumulates in the tensors' own type; the yardstick of the two-error rule). Null when the name is unknown.
const Backend* find_backend(const char* name);

/// Names of all backends that can be used on this machine, best first, ending in null.
const char* const* backend_names();

/// Everything a front door needs besides the op's own parameters.
struct Context {
    const Backend* backend = nullptr;
    Stream stream;
    Arena* arena = nullptr;
};

/// The front doors: validate, choose, call. Each returns invalid_argument with op, argument and both shapes,
/// unsupported when the backend declines, out_of_memory when the arena is too small. With a measuring arena they count
/// and do no work.
#define NOEMA_OP(name, Params, cpu, reference) Status name(const Params& parameters, Context& context);
#include "noema/ops.def"
#undef NOEMA_OP

}  // namespace noema
