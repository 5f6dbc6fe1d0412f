// Backend: a table with one pair of function pointers per op, and the memory calls. Backends fill it; nobody includes
// them.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>

#include "noema/arena.h"
#include "noema/ops/all.h"
#include "noema/status.h"
#include "noema/stream.h"
#include "noema/tensor.h"

namespace noema {

constexpr int kBackendVersion = 2;

template <class P>
struct Op {
    /// Null when the backend declines the op. Arguments have passed the front door's checks.
    Status (*run)(const P&, const Stream&, Workspace) = nullptr;
    /// Bytes of workspace that run() will take; null means none.
    size_t (*workspace)(const P&, const Stream&) = nullptr;
};

struct OpTable {
#define NOEMA_OP(name, Params, cpu, cuda, reference) Op<Params> name;
#include "noema/ops.def"
#undef NOEMA_OP
};

/// A step's work, recorded once and replayed in one call (on CUDA a graph). Opaque; the backend that made it frees it.
struct Recording;

/// Rounds of the same work until every sequence has come to rest (Context::repeat).
struct Repeat {
    View change;             // [B] f32: after a round, how far each sequence moved in it
    float tolerance = 0.0f;  // the next round is for changes above this
    int64_t most = 1;        // rounds
    View round = {};         // [1] i32, the device's own
};

struct Backend {
    int version = kBackendVersion;
    const char* name = nullptr;  // "cpu", "reference", "naive", "cuda"
    Device device = Device::cpu;
    OpTable ops;

    /// 64-byte aligned memory of this device, or null. release(null) is allowed.
    void* (*allocate)(size_t bytes) = nullptr;
    void (*release)(void* memory) = nullptr;

    /// Copies and zeroes, in the stream's order. upload() and clear() may return before they are done, but what `host`
    /// points to is free again; download() returns when the bytes are there. On the CPU plain memory functions.
    Status (*upload)(void* device, const void* host, size_t bytes, const Stream&) = nullptr;
    Status (*download)(void* host, const void* device, size_t bytes, const Stream&) = nullptr;
    Status (*clear)(void* device, size_t bytes, const Stream&) = nullptr;

    /// One line about the device ("NVIDIA H200, compute capability 9.0, 139 GiB, driver for CUDA 13.0"). Null on the CPU.
    const char* (*describe)() = nullptr;

    /// Streams of a device that works behind the host's back. Null on the CPU, where the engine brings its threads.
    Status (*open_stream)(Stream&) = nullptr;
    void (*close_stream)(Stream&) = nullptr;
    /// Waits, and reports what went wrong since the last wait.
    Status (*synchronize)(const Stream&) = nullptr;

    /// Host memory that send() and receive() copy to and from without waiting; they may be recorded. Null on the CPU.
    void* (*allocate_host)(size_t bytes) = nullptr;
    void (*release_host)(void* memory) = nullptr;
    Status (*send)(void* device, const void* host, size_t bytes, const Stream&) = nullptr;
    Status (*receive)(void* host, const void* device, size_t bytes, const Stream&) = nullptr;

    /// Between begin and end a stream takes note of work instead of doing it. Null: nothing to gain here.
    Status (*begin_recording)(const Stream&) = nullptr;
    Status (*end_recording)(const Stream&, Recording** out) = nullptr;
    Status (*replay)(Recording*, const Stream&) = nullptr;
    void (*release_recording)(Recording*) = nullptr;

    /// Between begin and end a stream takes note of a round, which the device then repeats by itself, the first whatever `change` holds,
    /// until it rests, has had the most, or the stream is cancelled while the host waits for it. Within a recording it is part of that;
    /// else it runs. Not complete: nothing of it is to run. Null: the host decides after each round (Context::repeat).
    Status (*begin_repeat)(const Repeat&, const Stream&) = nullptr;
    Status (*end_repeat)(const Repeat&, bool complete, const Stream&) = nullptr;

    /// Room that matmul_pack needs for a weight [N,K]; 0 when the backend reads weights as they are.
    size_t (*packed_bytes)(const View& weight, Precision precision, bool transposed) = nullptr;
    /// One arrangement serves products x Wᵀ and y W.
    bool packs_both_ways = false;

    /// Instruction sets that this machine and build offer, best first, ending in null; and the choice of one for the
    /// whole process (null: the best). Tests and NOEMA_ISA use it. Null for backends without a choice.
    const char* const* (*isa_list)() = nullptr;
    Status (*force_isa)(const char* isa) = nullptr;
    const char* (*current_isa)() = nullptr;
};

/// Whether a weight lies as this backend's products of a precision read it best.
inline bool is_arranged(const Weight& weight, Precision precision, const Backend& backend) {
    if (weight.packed) return weight.packed_precision == precision;
    return backend.packed_bytes(weight.view, precision, false) == 0;
}

/// The copies of a backend whose memory is the host's.
inline void use_host_memory(Backend& b) {
    b.upload = b.download = [](void* to, const void* from, size_t bytes, const Stream&) {
        std::memcpy(to, from, bytes);
        return Status{};
    };
    b.clear = [](void* memory, size_t bytes, const Stream&) {
        std::memset(memory, 0, bytes);
        return Status{};
    };
}

/// "cpu" (fast), "reference" (obvious loops, accumulates in double), "naive" (the same loops, accumulates in the
/// tensors' own type; the yardstick of the two-error rule) are built in. "cuda", "cuda:1" and "cuda-emulated" live in
/// modules that are opened on first use: device_unavailable says why one could not be. unknown_option for other names.
Status open_backend(const char* name, const Backend** out);

/// The same without the reason: null when the name is unknown or the device unusable.
const Backend* find_backend(const char* name);

/// Names of the built-in backends, best first, ending in null.
const char* const* backend_names();

/// What a device module exports, under the name kModuleEntry.
using ModuleEntry = Status (*)(int version, int device, const Backend** out);
constexpr const char* kModuleEntry = "noema_module";

/// Host arrays on their way to and from a device within one run of Engine::execute.
class Transfers {
 public:
    virtual ~Transfers() = default;
    virtual View upload(const View& host, Arena& arena) = 0;
    virtual void fetch(const View& v, void* host) = 0;
};

/// Everything a front door needs besides the op's own parameters.
struct Context {
    const Backend* backend = nullptr;
    Stream stream;
    Arena* arena = nullptr;
    /// Null where ops read host memory themselves.
    Transfers* transfers = nullptr;
    /// A replayed run (engine.h): host arrays travel, front doors do nothing.
    bool replaying = false;

    /// The values of a host array where ops can read them: the array itself on the CPU, elsewhere a copy in the arena.
    View upload(const View& host) { return transfers && host ? transfers->upload(host, *arena) : host; }
    /// Asks for a tensor's values; they are in `host` when Engine::execute returns.
    void fetch(const View& v, void* host) {
        if (transfers)
            transfers->fetch(v, host);
        else if (!arena->measuring() && v)
            backend->download(host, v.data, v.bytes(), stream);
    }
    /// A tensor's values at once: what a loop waits for to know whether to go on. Not in runs that may be recorded.
    Status read(const View& v, void* host) {
        return arena->measuring() || !v ? Status{} : backend->download(host, v.data, v.bytes(), stream);
    }
    /// Runs `round`, which writes repeat.change, once and as long as that says; `most` is at least 1. On devices that repeat by themselves
    /// the host calls it once and waits for nothing; elsewhere `aborted` ends a cancelled stream's.
    Status repeat(Repeat repeat, const std::function<Status()>& round);
    /// Zeroes a contiguous tensor, in the stream's order.
    Status clear(const View& v) {
        if (replaying || arena->measuring() || !v) return {};
        return backend->clear(v.data, v.bytes(), stream);
    }
};

/// The front doors: validate, choose, call. Each returns invalid_argument with op, argument and both shapes,
/// unsupported when the backend declines, out_of_memory when the arena is too small. With a measuring arena they count
/// and do no work.
#define NOEMA_OP(name, Params, cpu, cuda, reference) Status name(const Params& parameters, Context& context);
#include "noema/ops.def"
#undef NOEMA_OP

}  // namespace noema
