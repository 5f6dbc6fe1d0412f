#include <cstdlib>
#include <cstring>

#include "isa.h"

namespace noema {

namespace {

Backend make() {
    Backend b;
    b.name = "cpu";
#define NOEMA_OP_yes(name) b.ops.name = cpu::name##_entry();
#define NOEMA_OP_no(name)
#define NOEMA_OP(name, Params, cpu, reference) NOEMA_OP_##cpu(name)
#include "noema/ops.def"
#undef NOEMA_OP
#undef NOEMA_OP_yes
#undef NOEMA_OP_no
    b.allocate = [](size_t bytes) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); };
    b.release = [](void* memory) { std::free(memory); };
    b.upload = b.download = [](void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); };
    b.clear = [](void* memory, size_t bytes) { std::memset(memory, 0, bytes); };
    b.packed_bytes = cpu::packed_bytes;
    b.isa_list = cpu::isa_list;
    b.force_isa = cpu::force_isa;
    b.current_isa = cpu::isa_name;
    return b;
}

}  // namespace

const Backend* cpu_backend() {
    static const Backend backend = make();
    return &backend;
}

}  // namespace noema
